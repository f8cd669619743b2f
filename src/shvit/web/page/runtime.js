// ONNX Runtime Web and model files, for whatever worker runs networks.

const MOST_THREADS = 4; // more gain little on a network of some milliseconds, and phones' further cores are slow ones

/** An error that says of what kind it is: "image", "gone", "storage" or "failed". */
export function refuse(kind, message) {
  return Object.assign(new Error(message), { kind });
}

/**
 * ONNX Runtime Web, ready to make sessions.
 *
 * @param {string} folder address of the folder that it lies in
 * @param {string} device "webgpu" or "wasm"
 * @param {?number} threads for WebAssembly; as many as there are processors, at most 4, when not given
 */
export async function openRuntime(folder, device, threads) {
  const ort = await import(new URL(`ort.${device}.min.mjs`, folder).href);
  ort.env.wasm.wasmPaths = folder;
  const most = Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads || most : 1;
  ort.env.logLevel = "error";
  return ort;
}

export function create(ort, bytes, device) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: [device],
    // Threads that wait in a loop take the processor from the camera and the page.
    extra: { session: { intra_op: { allow_spinning: "0" } } },
  });
}

export async function devicesHere(devices) {
  if (!devices.includes("webgpu")) return devices;
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // A fallback adapter is a processor that plays a GPU: WebAssembly is faster.
  const real = adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  return real ? devices : devices.filter((each) => each !== "webgpu");
}

export async function fetchOrRefuse(url, options) {
  const response = await fetch(url, options).catch(() => null);
  if (!response?.ok) throw refuse("gone", `${url.split("/").pop()} cannot be loaded. Is the connection up?`);
  return response;
}

export async function readAll(response, total, onProgress) {
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

/** Runs one prepared image, `Uint8Array` (height, width, 3): the outputs by name. */
export function run(ort, inference, card, pixels) {
  const [height, width] = card.preprocessing.image_size;
  const input = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  return inference.run({ [inference.inputNames[0]]: input });
}
