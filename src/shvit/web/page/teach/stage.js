// The camera of the Teach view, a picture in its place, and the labels of what is shown, as soon as something is taught.

import { showBars } from "../bars.js";
import { nextFrame, openStream } from "../camera.js";
import { part, say } from "../words.js";

const EVERY = 100; // milliseconds between pictures that are taken while a button is held
const MOST_WAITING = 3; // frames that are taken and not kept yet
const PAUSE = 300; // milliseconds before labels are asked for again after they failed

export class Stage {
  #calls;
  #camera = null; // while it runs: { stream }
  #starting = null;
  #holding = null; // while pictures are taken: { classId, taken, waiting }
  #picture = null; // the picture in place of the camera: { blob, url }
  #paused = () => false;
  taught = false;

  /** @param {object} options `calls`, to the worker; `paused`, whether labels may wait; `keep(bitmap, classId)` keeps a frame */
  constructor({ calls, paused, keep }) {
    this.#calls = calls;
    this.#paused = paused;
    this.keep = keep;
  }

  get on() {
    return this.#camera !== null;
  }

  start() {
    this.#starting ??= this.#open().finally(() => (this.#starting = null));
    return this.#starting;
  }

  async #open() {
    if (this.#camera) return;
    const stream = await openStream();
    const mine = { stream };
    this.#camera = mine;
    stream.getVideoTracks()[0].onended = () => this.stop();
    this.#show("teach-video");
    const video = part("teach-video");
    video.srcObject = stream;
    await video.play().catch(() => {}); // given up where the camera is stopped before its first frame
    part("teach-camera").textContent = "Stop camera";
    part("teach-camera").setAttribute("aria-pressed", "true");
    say("Camera on");
    this.#follow(mine, video);
  }

  stop() {
    this.release();
    if (!this.#camera) return;
    for (const track of this.#camera.stream.getTracks()) track.stop();
    this.#camera = null;
    part("teach-video").srcObject = null;
    part("teach-camera").textContent = "Start camera";
    part("teach-camera").setAttribute("aria-pressed", "false");
    say("Camera off");
    this.#show("teach-empty");
  }

  #show(what) {
    for (const id of ["teach-empty", "teach-video", "teach-picture"]) part(id).hidden = id !== what;
    part("teach-stage").classList.toggle("filled", what !== "teach-empty");
    if (what === "teach-empty") this.#labels(null);
  }

  /** Takes pictures at a steady rate, until `release`; the first at once. */
  async hold(classId) {
    const mine = { classId, taken: 0, waiting: 0 };
    this.#holding = mine;
    await this.start();
    const video = part("teach-video");
    for (let next = performance.now(); this.#holding === mine || !mine.taken; ) {
      if (!this.#camera) return;
      if (mine.waiting < MOST_WAITING) this.#take(mine, await createImageBitmap(video));
      next = Math.max(next + EVERY, performance.now());
      await new Promise((done) => setTimeout(done, next - performance.now()));
    }
  }

  #take(mine, bitmap) {
    mine.taken++;
    mine.waiting++;
    this.keep(bitmap, mine.classId).finally(() => mine.waiting--);
  }

  release() {
    if (!this.#holding) return;
    say(`${this.#holding.taken} taken`);
    this.#holding = null;
  }

  /** Shows a picture in place of the camera. */
  async try(blob) {
    this.stop();
    if (this.#picture) URL.revokeObjectURL(this.#picture.url);
    this.#picture = { blob, url: URL.createObjectURL(blob) };
    part("teach-picture").src = this.#picture.url;
    part("teach-picture").alt = blob.name ?? "pasted picture";
    this.#show("teach-picture");
    await this.again();
  }

  /** Labels the picture in place of the camera, with what was taught last. */
  async again() {
    if (part("teach-picture").hidden || !this.taught) return;
    const { predictions } = await this.#calls.ask("label", { image: this.#picture.blob });
    this.#labels(predictions);
    say(predictions[0].label);
  }

  /** Labels frame after frame, always the newest, one at a time. */
  async #follow(mine, video) {
    while (this.#camera === mine) {
      await nextFrame(video);
      if (this.#camera !== mine) return;
      if (!this.taught || this.#paused()) {
        if (!this.taught) this.#labels(null);
        continue;
      }
      try {
        const image = await createImageBitmap(video);
        const { predictions } = await this.#calls.ask("label", { image }, { transfer: [image] });
        if (this.#camera === mine) this.#labels(predictions);
      } catch {
        await new Promise((done) => setTimeout(done, PAUSE)); // the model is being changed
      }
    }
  }

  #labels(predictions) {
    showBars(part("teach-labels"), predictions ?? []);
    part("teach-best").textContent = predictions?.[0].label ?? "";
  }
}
