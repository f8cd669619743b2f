// Where predictions come from: a server, or this browser. Both have the same few methods, and the page knows no more.
//
//   models()            -> Promise<string[]>              names
//   load(name, told)    -> Promise<{ card, where }>       `told` is given the share loaded, in [0, 1]
//   predict(blob)       -> Promise<{ predictions, ... }>  best first, as `shvit predict --format jsonl` writes them,
//                                                         each with a `short_label` to be shown, and what they decide
//   frame(video)        -> Promise<{ predictions, ... }>  of what a playing <video> shows
//   explanations()      -> Promise<string[]>              kinds of picture that `explain` makes
//   explain(blob, kind, point) -> Promise<Blob>           a picture; `point` is { x, y } in pixels, or left out
//   explainFrame(video, kind)  -> Promise<Blob>           of what a playing <video> shows
//   teaching(name)      -> Promise<{ file, ... }>         where a model's file is, and what runs it in this browser
//
// What goes wrong is an Error with a `kind`: "image" (this input), "gone" (the other side), "busy", "token" or "failed".

import { Calls, problem } from "./calls.js";
import { shortLabels } from "./labels.js";

const TOP_K = 5;

const TRIES = 4;
const LONGEST_WAIT = 5; // seconds before another try, whatever a busy server asks for

const LONGEST_SIDE = 640; // of a camera's frame on its way to a server, in pixels: networks see less
const JPEG_QUALITY = 0.9;

/** The predictor that a configuration asks for; `parameters` are those of the page's address. */
export function choosePredictor(config, parameters) {
  return config.predictor === "browser" ? new BrowserPredictor(config, parameters) : new ServerPredictor();
}

/** Predictions by the server that the page comes from. */
class ServerPredictor {
  #known = new Map();
  #model = null;
  #short = [];
  #canvas = document.createElement("canvas");
  #routes = null; // what the server says of itself, once it was asked
  token = null;

  async models() {
    const { models } = await (await this.#ask("v1/models")).json();
    this.#known = new Map(models.map((each) => [each.name, each]));
    return [...this.#known.keys()];
  }

  async load(name) {
    [this.#model, this.#short] = [name, []];
    const { card, engine, number_of_classes } = this.#known.get(name);
    const { classes = [] } = await (await this.#ask(`v1/models/${encodeURIComponent(name)}`)).json();
    if (this.#model === name) this.#short = shortLabels(classes); // and none was chosen since
    return { card: { ...card, number_of_classes }, where: `on this server, ${engine}. Pictures are sent there.` };
  }

  async predict(blob) {
    const short = this.#short; // of the model that is asked
    const { results } = await (await this.#send("v1/predict", blob, { top_k: TOP_K })).json();
    const [{ predictions, ...others }] = results;
    const named = predictions.map((each) => ({ ...each, short_label: short[each.class_id] ?? each.label }));
    return { ...others, predictions: named };
  }

  async frame(video) {
    return this.predict(await this.#capture(video));
  }

  async #capture(video) {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
    this.#canvas.width = Math.round(video.videoWidth * scale);
    this.#canvas.height = Math.round(video.videoHeight * scale);
    this.#canvas.getContext("2d").drawImage(video, 0, 0, this.#canvas.width, this.#canvas.height);
    return new Promise((done) => this.#canvas.toBlob(done, "image/jpeg", JPEG_QUALITY));
  }

  /** Whether the server has a route. */
  async #has(route) {
    this.#routes ??= fetch("openapi.json").then((response) => response.json()).catch(() => ({}));
    return Boolean((await this.#routes).paths?.[route]);
  }

  async explanations() {
    return (await this.#has("/v1/explain")) ? ["attention", "cam"] : [];
  }

  async teaching(name) {
    if (!(await this.#has("/v1/models/{name}/file"))) {
      throw problem("failed", "Teaching runs in this browser, and this server gives out no model files. Start it so: shvit serve --teach");
    }
    const file = here(`v1/models/${encodeURIComponent(name)}/file`);
    return { file, headers: this.#authorization(), runtime: here("ort/") };
  }

  #authorization() {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }

  async explain(blob, kind, point = {}) {
    return (await this.#send("v1/explain", blob, { kind, ...point })).blob();
  }

  async explainFrame(video, kind) {
    return this.explain(await this.#capture(video), kind);
  }

  #send(path, blob, query) {
    const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
    const address = `${path}?${new URLSearchParams({ ...query, model: this.#model })}`;
    return this.#ask(address, { method: "POST", body: blob, headers: { "Content-Type": type } });
  }

  /** A request, again while the server is busy. */
  async #ask(path, options = {}) {
    const headers = { ...options.headers, ...this.#authorization() };
    for (let tried = 1; ; tried++) {
      let response;
      try {
        response = await fetch(path, { ...options, headers });
      } catch {
        throw problem("gone", "The server does not answer. Is it still running?");
      }
      if (response.ok) return response;
      if (response.status === 503 && tried < TRIES) {
        const wait = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
        await new Promise((done) => setTimeout(done, wait * 1000));
        continue;
      }
      if (response.status === 503) throw problem("busy", "The server is busy.");
      if (response.status === 401) throw problem("token", "The server asks for a token.");
      throw problem([413, 415, 422].includes(response.status) ? "image" : "failed", await saidBy(response));
    }
  }
}

/** What the server said of an error, in one line. */
async function saidBy(response) {
  const { error } = await response.json().catch(() => ({}));
  return error ?? `The server answered ${response.status} ${response.statusText}`.trim();
}

/** Predictions in this browser, by a worker that has ONNX Runtime Web. */
class BrowserPredictor {
  #config;
  #parameters;
  #calls = new Calls(new URL("worker.js", import.meta.url));
  #model = null;

  constructor(config, parameters) {
    this.#config = config;
    this.#parameters = parameters;
  }

  async models() {
    return this.#config.models.map(({ name }) => name);
  }

  async load(name, told) {
    const model = this.#config.models.find((each) => each.name === name);
    const { card, device, threads } = await this.#calls.ask(
      "load",
      {
        model: { ...model, file: here(model.file), card: here(model.card) },
        runtime: here(this.#config.runtime.folder),
        device: this.#parameters.get("device"),
        threads: Number(this.#parameters.get("threads")),
      },
      { told },
    );
    this.#model = model;
    const engine = device === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    return { card, where: `in this browser, ${engine}. Pictures stay on this device.` };
  }

  predict(blob) {
    return this.#calls.ask("predict", { image: blob, topK: TOP_K });
  }

  async frame(video) {
    const image = await createImageBitmap(video);
    return this.#calls.ask("predict", { image, topK: TOP_K }, { transfer: [image] });
  }

  async explanations() {
    return this.#model.explain ? ["attention", "cam"] : [];
  }

  explain(blob, kind, point) {
    return this.#calls.ask("explain", { image: blob, kind, point });
  }

  async explainFrame(video, kind) {
    const image = await createImageBitmap(video);
    return this.#calls.ask("explain", { image, kind }, { transfer: [image] });
  }

  async teaching(name) {
    const { file, bytes } = this.#config.models.find((each) => each.name === name);
    return { file: here(file), bytes, runtime: here(this.#config.runtime.folder) };
  }
}

function here(path) {
  return new URL(path, document.baseURI).href;
}
