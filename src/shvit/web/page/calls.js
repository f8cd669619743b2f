// Questions to a worker, which answers by number.

export function problem(kind, message) {
  return Object.assign(new Error(message), { kind });
}

export class Calls {
  #worker;
  #waiting = new Map();
  #asked = 0;

  /** @param {URL} script of the worker, a module */
  constructor(script) {
    this.#worker = new Worker(script, { type: "module" });
    this.#worker.onmessage = ({ data: { id, value, error, progress } }) => {
      const { done, failed, told } = this.#waiting.get(id);
      if (progress !== undefined) return told?.(progress);
      this.#waiting.delete(id);
      return error ? failed(problem(error.kind, error.message)) : done(value);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      for (const { failed } of this.#waiting.values()) failed(problem("failed", event.message || "The worker stopped."));
      this.#waiting.clear();
    };
  }

  /**
   * @param {string} task
   * @param {object} given
   * @param {{told: function(number): void, transfer: Transferable[]}} options `told` is given the share that is done
   */
  ask(task, given = {}, { told, transfer = [] } = {}) {
    const id = ++this.#asked;
    return new Promise((done, failed) => {
      this.#waiting.set(id, { done, failed, told });
      this.#worker.postMessage({ id, task, given }, transfer);
    });
  }

  /** Says something that is not answered. */
  tell(task) {
    this.#worker.postMessage({ task });
  }
}
