// Work on many pictures, a few at a time, that can be watched and ended.

const AT_ONCE = 2; // asked of the worker, so that it never waits for the page
const NAMED = 3; // of those that were left out

export class Queue {
  #waiting = [];
  #running = 0;
  #changed;
  #ended;
  total = 0;
  done = 0;
  skipped = []; // { name, message }

  /** @param {object} tells `changed(queue)` is told of each picture, `ended(queue, error)` of the last, or of what ended it */
  constructor({ changed, ended }) {
    [this.#changed, this.#ended] = [changed, ended];
  }

  get busy() {
    return this.#running > 0 || this.#waiting.length > 0;
  }

  /** @param {{name: string, work: function(): Promise}[]} jobs a job whose error is of kind "image" is left out */
  add(jobs) {
    if (!this.busy) [this.total, this.done, this.skipped] = [0, 0, []];
    for (const each of jobs) this.#waiting.push(each);
    this.total += jobs.length;
    this.#changed(this);
    while (this.#running < AT_ONCE && this.#waiting.length) this.#run();
  }

  /** What has begun is finished, and no more begun. */
  cancel() {
    this.total -= this.#waiting.length;
    this.#waiting = [];
  }

  async #run() {
    this.#running++;
    let failure = null;
    while (this.#waiting.length && !failure) {
      const { name, work } = this.#waiting.shift();
      try {
        await work();
      } catch (error) {
        if (error.kind === "image") this.skipped.push({ name, message: error.message });
        else failure = error;
      }
      this.done++;
      this.#changed(this);
    }
    this.#running--;
    if (failure) {
      this.cancel();
      this.#ended(this, failure);
    } else if (!this.busy) {
      this.#ended(this, null);
    }
  }

  /** What was left out, in a sentence; "" for nothing. */
  get leftOut() {
    if (!this.skipped.length) return "";
    const named = this.skipped.slice(0, NAMED).map(({ name, message }) => `${name}: ${message}`);
    const more = this.skipped.length - named.length;
    const count = this.skipped.length === 1 ? "1 picture was left out" : `${this.skipped.length} pictures were left out`;
    return `${count}. ${named.join("; ")}${more ? `; and ${more} more` : ""}`;
  }
}
