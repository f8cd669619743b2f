// The network in the browser: decodes, prepares and runs, away from the page's thread. Messages are answered by number.

import { apply, plan } from "./preprocess.js";

const MAX_PIXELS = 100_000_000;
const MOST_THREADS = 4; // more gain little on a network of some milliseconds, and phones' further cores are slow ones

let session = null; // what runs: { ort, inference, card }
let canvas = null;
let planned = null; // for the size of the last image: { width, height, preprocessing, todo }

const tasks = { load, predict };

self.onmessage = async ({ data: { id, task, ...given } }) => {
  try {
    self.postMessage({ id, value: await tasks[task](given, (progress) => self.postMessage({ id, progress })) });
  } catch (error) {
    self.postMessage({ id, error: { kind: error.kind ?? "failed", message: error.message ?? String(error) } });
  }
};

function refuse(kind, message) {
  return Object.assign(new Error(message), { kind });
}

/**
 * Loads a model.
 *
 * @param {object} model of config.json: `file`, `card`, `bytes`, `devices`
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
      const inference = await ort.InferenceSession.create(bytes, {
        executionProviders: [each],
        // Threads that wait in a loop take the processor from the camera and the page.
        extra: { session: { intra_op: { allow_spinning: "0" } } },
      });
      const next = { ort, inference, card };
      const [height, width] = card.preprocessing.image_size;
      await infer(next, new Uint8Array(height * width * 3)); // the first run prepares kernels
      await session?.inference.release();
      session = next;
      return { card, device: each, threads: each === "wasm" ? threads : 1 };
    } catch (error) {
      reason = error;
    }
  }
  throw refuse("failed", `the model cannot be run in this browser: ${reason.message ?? reason}`);
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
 * @returns {Promise<{predictions: object[], milliseconds: object}>} as `shvit predict --format jsonl` has them, best first
 */
async function predict({ image, topK }) {
  const started = performance.now();
  const pixels = await prepare(image, session.card.preprocessing);
  const prepared = performance.now();
  const output = await infer(session, pixels);
  const done = performance.now();
  const scores = session.card.output === "logits" ? softmax(output) : output;
  return {
    predictions: top(scores, session.card.classes, topK),
    milliseconds: { prepare: prepared - started, infer: done - prepared },
  };
}

async function infer({ ort, inference, card }, pixels) {
  const [height, width] = card.preprocessing.image_size;
  const input = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const outputs = await inference.run({ [inference.inputNames[0]]: input });
  const output = outputs[inference.outputNames[0]];
  const values = Float64Array.from(await output.getData());
  output.dispose();
  return values;
}

/** An image to the network's input, `Uint8Array` (height, width, 3), RGB. */
async function prepare(image, preprocessing) {
  const isFile = image instanceof Blob;
  const bitmap = isFile ? await decode(image) : image;
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw refuse("image", `${width}×${height} pixels, at most ${MAX_PIXELS / 1e6} megapixels are accepted`);
    }
    if (planned?.width !== width || planned.height !== height || planned.preprocessing !== preprocessing) {
      planned = { width, height, preprocessing, todo: plan(width, height, preprocessing) };
    }
    const { todo } = planned;
    const pixels = read(bitmap, todo);
    return apply((isFile && hasTransparency(pixels) && readUnderTransparency(bitmap, todo)) || pixels, todo);
  } finally {
    bitmap.close();
  }
}

async function decode(blob) {
  try {
    // Upright, as EXIF says, and otherwise the values that the file holds, as the runtime takes them.
    return await createImageBitmap(blob, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
  } catch {
    throw refuse("image", "not an image, or of a format that this browser does not read");
  }
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

function softmax(logits) {
  const highest = logits.reduce((most, each) => Math.max(most, each), -Infinity);
  const powers = logits.map((each) => Math.exp(each - highest));
  const sum = powers.reduce((total, each) => total + each, 0);
  return powers.map((each) => each / sum);
}

// The most probable, and of equals the first.
function top(scores, classes, topK) {
  return Array.from(scores.keys())
    .sort((a, b) => scores[b] - scores[a] || a - b)
    .slice(0, topK)
    .map((index) => ({ ...classes[index], score: scores[index] }));
}
