// The network in the browser: decodes, prepares and runs, away from the page's thread. Messages are answered by number.

import { decide, scoresOf } from "./decide.js";
import { attentionMap, classActivation, draw, keptRegion } from "./explain.js";
import { shortLabels } from "./labels.js";
import { decode, prepare } from "./pixels.js";
import { create, devicesHere, fetchOrRefuse, openRuntime, readAll, refuse, run } from "./runtime.js";

let session = null; // what runs: { ort, inference, card, short, model, explaining }
let turn = Promise.resolve(); // of the message before: networks run one at a time

const tasks = { load, predict, explain };

self.onmessage = ({ data }) => {
  turn = turn.then(() => answer(data));
};

async function answer({ id, task, given }) {
  try {
    self.postMessage({ id, value: await tasks[task](given, (progress) => self.postMessage({ id, progress })) });
  } catch (error) {
    self.postMessage({ id, error: { kind: error.kind ?? "failed", message: error.message ?? String(error) } });
  }
}

/**
 * Loads a model.
 *
 * @param {object} model of config.json: `file`, `card`, `bytes`, `devices`, `explain`
 * @param {?string} device "webgpu" or "wasm"; the model's first that is there when not given
 * @param {?number} threads for WebAssembly; as many as there are processors, at most 4, when not given
 * @returns {Promise<{card: object, device: string, threads: number}>}
 */
async function load({ model, runtime, device, threads }, onProgress) {
  const [card, bytes] = await Promise.all([
    fetchOrRefuse(model.card).then((response) => response.json()),
    fetchOrRefuse(model.file).then((response) => readAll(response, model.bytes, onProgress)),
  ]);
  const devices = device ? [device] : await devicesHere(model.devices);
  let reason;
  for (const each of devices) {
    try {
      const ort = await openRuntime(runtime, each, threads);
      const inference = await create(ort, bytes, each);
      const next = { ort, inference, card, short: shortLabels(card.classes), model, explaining: null };
      const [height, width] = card.preprocessing.image_size;
      await infer(next, new Uint8Array(height * width * 3)); // the first run prepares kernels
      await session?.inference.release();
      await session?.explaining?.release();
      session = next;
      return { card, device: each, threads: each === "wasm" ? ort.env.wasm.numThreads : 1 };
    } catch (error) {
      reason = error;
    }
  }
  throw refuse("failed", `the model cannot be run in this browser: ${reason.message ?? reason}`);
}

/**
 * Classifies an image.
 *
 * @param {Blob|ImageBitmap} image a file's content, or a camera's frame, which is closed
 * @param {number} topK labels wanted
 * @returns {Promise<{predictions: object[], decision: ?string, milliseconds: object}>} as the page's predictors give them
 */
async function predict({ image, topK }) {
  const started = performance.now();
  const bitmap = await decode(image);
  try {
    const pixels = prepare(bitmap, image instanceof Blob, session.card.preprocessing);
    const prepared = performance.now();
    const { output, unknown } = await infer(session, pixels);
    const done = performance.now();
    const { card, short } = session;
    return {
      ...decide(scoresOf(output, card), unknown, card, short, topK),
      milliseconds: { prepare: prepared - started, infer: done - prepared },
    };
  } finally {
    bitmap.close();
  }
}

/**
 * A picture of what the network looked at.
 *
 * @param {Blob|ImageBitmap} image as for `predict`
 * @param {string} kind "attention", of the first stage that has any, or "cam" for the first label's class activation
 * @param {?{x: number, y: number}} point in the image's pixels: the attention of the token there
 * @returns {Promise<Blob>}
 */
async function explain({ image, kind, point }) {
  const { ort, card, model } = session;
  session.explaining ??= await withOutputs(ort, model);
  const bitmap = await decode(image);
  try {
    const pixels = prepare(bitmap, image instanceof Blob, card.preprocessing);
    const outputs = await run(ort, session.explaining, card, pixels);
    const { attention, features, class_weights } = model.explain.tensors;
    const region = keptRegion(bitmap.width, bitmap.height, card.preprocessing);
    let map;
    if (kind === "cam") {
      const logits = outputs[session.explaining.outputNames[0]].data;
      map = classActivation(outputs[features], outputs[class_weights], logits.indexOf(Math.max(...logits)));
    } else {
      map = attentionMap(outputs[attention], card.preprocessing.image_size, region, point);
    }
    if (!map) {
      const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((edge) => region[edge].toFixed(1));
      const seen = `x from ${left} to ${right} and y from ${top} to ${bottom}`;
      throw refuse("image", `point ${point.x},${point.y}: outside of what the network sees, ${seen}`);
    }
    return await draw(bitmap, region, map, model.explain);
  } finally {
    bitmap.close();
  }
}

// The model once more, with the tensors that explanations are made of as outputs: messages that stand one after the other
// are merged by whoever parses the file. On the processor, which has all of them.
async function withOutputs(ort, { file, bytes: size, explain: { appended } }) {
  const bytes = await readAll(await fetchOrRefuse(file), size, () => {});
  const more = Uint8Array.from(atob(appended), (each) => each.charCodeAt(0));
  const joined = new Uint8Array(bytes.length + more.length);
  joined.set(bytes);
  joined.set(more, bytes.length);
  return create(ort, joined, "wasm");
}

async function infer({ ort, inference, card }, pixels) {
  const outputs = await run(ort, inference, card, pixels);
  const read = async (name) => {
    const values = Float64Array.from(await outputs[name].getData());
    outputs[name].dispose();
    return values;
  };
  const output = await read(inference.outputNames[0]);
  const unknown = inference.outputNames.includes("unknown") ? (await read("unknown"))[0] : null;
  return { output, unknown };
}
