// The network in the browser: decodes, prepares and runs, away from the page's thread. Messages are answered by number.

import { decide, scoresOf } from "./decide.js";
import { attentionMap, classActivation, draw, keptRegion } from "./explain.js";
import { shortLabels } from "./labels.js";
import { apply, plan } from "./preprocess.js";

const MAX_PIXELS = 100_000_000;
const MOST_THREADS = 4; // more gain little on a network of some milliseconds, and phones' further cores are slow ones

let session = null; // what runs: { ort, inference, card, short, model, explaining }
let turn = Promise.resolve(); // of the message before: networks run one at a time
let canvas = null;
let planned = null; // for the size of the last image: { width, height, preprocessing, todo }

const tasks = { load, predict, explain };

self.onmessage = ({ data }) => {
  turn = turn.then(() => answer(data));
};

async function answer({ id, task, ...given }) {
  try {
    self.postMessage({ id, value: await tasks[task](given, (progress) => self.postMessage({ id, progress })) });
  } catch (error) {
    self.postMessage({ id, error: { kind: error.kind ?? "failed", message: error.message ?? String(error) } });
  }
}

function refuse(kind, message) {
  return Object.assign(new Error(message), { kind });
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
  threads = self.crossOriginIsolated ? threads || Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  let reason;
  for (const each of devices) {
    try {
      const ort = await import(new URL(`ort.${each}.min.mjs`, runtime).href);
      ort.env.wasm.wasmPaths = runtime;
      ort.env.wasm.numThreads = threads;
      ort.env.logLevel = "error";
      const inference = await create(ort, bytes, each);
      const next = { ort, inference, card, short: shortLabels(card.classes), model, explaining: null };
      const [height, width] = card.preprocessing.image_size;
      await infer(next, new Uint8Array(height * width * 3)); // the first run prepares kernels
      await session?.inference.release();
      await session?.explaining?.release();
      session = next;
      return { card, device: each, threads: each === "wasm" ? threads : 1 };
    } catch (error) {
      reason = error;
    }
  }
  throw refuse("failed", `the model cannot be run in this browser: ${reason.message ?? reason}`);
}

function create(ort, bytes, device) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: [device],
    // Threads that wait in a loop take the processor from the camera and the page.
    extra: { session: { intra_op: { allow_spinning: "0" } } },
  });
}

async function devicesHere(devices) {
  if (!devices.includes("webgpu")) return devices;
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // A fallback adapter is a processor that plays a GPU: WebAssembly is faster.
  const real = adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  return real ? devices : devices.filter((each) => each !== "webgpu");
}

async function fetchOrRefuse(url) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw refuse("gone", `${url.split("/").pop()} cannot be loaded. Is the connection up?`);
  return response;
}

async function readAll(response, total, onProgress) {
  const bytes = new Uint8Array(total);
  let read = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (read + value.length > total) break;
    bytes.set(value, read);
    read += value.length;
    onProgress(read / total);
  }
  if (read !== total) throw refuse("gone", `the model file has not the ${total} bytes expected; load the page again`);
  return bytes;
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

function run(ort, inference, card, pixels) {
  const [height, width] = card.preprocessing.image_size;
  const input = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  return inference.run({ [inference.inputNames[0]]: input });
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

/** An image to the network's input, `Uint8Array` (height, width, 3), RGB. */
function prepare(bitmap, isFile, preprocessing) {
  const { width, height } = bitmap;
  if (planned?.width !== width || planned.height !== height || planned.preprocessing !== preprocessing) {
    planned = { width, height, preprocessing, todo: plan(width, height, preprocessing) };
  }
  const { todo } = planned;
  const pixels = read(bitmap, todo);
  return apply((isFile && hasTransparency(pixels) && readUnderTransparency(bitmap, todo)) || pixels, todo);
}

/** A file's content, or a camera's frame as it is, to a bitmap. */
async function decode(image) {
  let bitmap = image;
  if (image instanceof Blob) {
    try {
      // Upright, as EXIF says, and otherwise the values that the file holds, as the runtime takes them.
      bitmap = await createImageBitmap(image, {
        imageOrientation: "from-image",
        premultiplyAlpha: "none",
        colorSpaceConversion: "none",
      });
    } catch {
      throw refuse("image", "not an image, or of a format that this browser does not read");
    }
  }
  const { width, height } = bitmap;
  if (width * height <= MAX_PIXELS) return bitmap;
  bitmap.close();
  throw refuse("image", `${width}×${height} pixels, at most ${MAX_PIXELS / 1e6} megapixels are accepted`);
}

function read(bitmap, { left, top, width, height }) {
  if (canvas?.width !== width || canvas.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, width, height);
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, width, height).data;
}

function hasTransparency(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return true;
  return false;
}

// The runtime drops transparency and keeps the colours under it, which a canvas has multiplied away. A texture has them.
function readUnderTransparency(bitmap, { left, top, width, height }) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(width * height * 4);
  gl.readPixels(left, top, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : pixels;
}
