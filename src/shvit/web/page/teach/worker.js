// Teaching, away from the page's thread: pictures are decoded, embedded and kept here, heads fitted and files written.
// Messages are answered by number, one after the other; only "cancel" does not wait.

import { shortLabels } from "../labels.js";
import { decode, prepare } from "../pixels.js";
import { create, fetchOrRefuse, openRuntime, readAll, refuse, run } from "../runtime.js";
import { opened, written } from "./archive.js";
import { taughtCard } from "./card.js";
import { inspect, withHead, withOutput } from "./graph.js";
import { logitsOf, teach as fitHead } from "./logistic.js";
import { Project } from "./project.js";
import { Sha256 } from "./sha256.js";
import { isSmall, shrink } from "./shrink.js";

const MOST_CHECKED = 16; // pictures that a written file is run on
const CLOSE = 1e-3; // largest difference of a logit, relative to the largest
const TOP_K = 5;
const THUMBNAIL = 112; // pixels of a side, twice what it is shown at

let model = null; // { name, bytes, card, precision, features, backbone }
let session = null; // { ort, inference }
let project = null;
let archive = null; // pictures of the one that is being opened
let cancelled = false;
let turn = Promise.resolve();

const tasks = {
  open,
  add,
  addFromArchive,
  openArchive: async ({ file }) => {
    archive = await opened(file);
    const pictures = archive.pictures.map(({ className, name }) => ({ className, name }));
    return { ...archive, pictures };
  },
  embed,
  label,
  teach,
  modelFile,
  projectFile: (_, told) => written(project, told),
  thumbnail,
  addClass: ({ name }) => project.addClass(name),
  renameClass: ({ classId, name }) => project.renameClass(classId, name),
  setClassRemoved: ({ classId, removed }) => project.setClassRemoved(classId, removed),
  setPictureRemoved: ({ id, removed }) => project.setPictureRemoved(id, removed),
  setName: ({ name }) => project.setName(name),
  clear: () => project.clear(),
  summary: () => project.summary(),
};

self.onmessage = ({ data }) => {
  if (data.task === "cancel") cancelled = true;
  else turn = turn.then(() => answer(data));
};

async function answer({ id, task, given }) {
  try {
    const value = await tasks[task](given, (progress) => self.postMessage({ id, progress }));
    self.postMessage({ id, value }, value instanceof ImageBitmap ? [value] : []);
  } catch (error) {
    self.postMessage({ id, error: { kind: error.kind ?? "failed", message: error.message ?? String(error) } });
  }
}

/**
 * Loads a model, and the project that this browser keeps.
 *
 * @param {object} from `name` of the model, `file` address, `headers` of the request, `bytes` of it where known
 * @param {string} runtime address of ONNX Runtime Web's folder
 * @param {?number} threads
 * @param {string} place that the page is at
 * @returns {Promise<object>} the project's summary
 */
async function open({ from, runtime, threads, place }, told) {
  const response = await fetchOrRefuse(from.file, { headers: from.headers });
  const size = from.bytes ?? Number(response.headers.get("Content-Length"));
  const bytes = await readAll(response, size, told);
  const next = { name: from.name, bytes, ...inspect(bytes) };
  const ort = session?.ort ?? (await openRuntime(runtime, "wasm", threads));
  const inference = await create(ort, withOutput(bytes, next.features), "wasm");
  await session?.inference.release();
  [model, session] = [next, { ort, inference }];
  project = await Project.open(place, next.backbone);
  return project.summary();
}

/** Pooled features of an image, `Float32Array` (channels). */
async function featuresOf(bitmap, isFile) {
  const pixels = prepare(bitmap, isFile, model.card.preprocessing);
  const outputs = await run(session.ort, session.inference, model.card, pixels);
  const values = Float32Array.from(outputs[model.features].data);
  if (!values.every(Number.isFinite)) throw refuse("image", "the network has no answer to it");
  return values;
}

/**
 * Adds a picture.
 *
 * @param {Blob|ImageBitmap} image a file's content, or a camera's frame, which is closed
 * @returns {Promise<number>} its id
 */
async function add({ image, name, classId }) {
  const isFile = image instanceof Blob;
  project.checkRoom(classId, null);
  const bitmap = await decode(image);
  try {
    const small = isFile && isSmall(image, bitmap, model.card.preprocessing) ? image : await shrink(bitmap, model.card.preprocessing);
    // A camera that is held still may give the same picture again, and is meant to.
    const digest = isFile ? digestOf(new Uint8Array(await small.arrayBuffer())) : null;
    if (digest) project.checkRoom(classId, digest);
    const values = await featuresOf(bitmap, isFile);
    return await project.addPicture(classId, { name, digest, image: new Blob([small], { type: "image/jpeg" }), values });
  } finally {
    bitmap.close();
  }
}

/** A picture's middle, small and square. A bitmap, since making a blob's address holds the page up. */
async function thumbnail({ id }) {
  const bitmap = await createImageBitmap(await project.image(id));
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2].map(Math.floor);
  const size = { resizeWidth: THUMBNAIL, resizeHeight: THUMBNAIL, resizeQuality: "medium" };
  const small = await createImageBitmap(bitmap, left, top, side, side, size);
  bitmap.close();
  return small;
}

function digestOf(bytes) {
  const digest = new Sha256();
  digest.update(bytes);
  return digest.hex();
}

/** Adds a picture of the archive that was opened last, by its place there. */
async function addFromArchive({ place, classId }) {
  const { name, read } = archive.pictures[place];
  const image = await read().catch((error) => {
    throw error instanceof RangeError ? refuse("image", error.message) : error;
  });
  return add({ image, name, classId });
}

/** Computes the features of a picture that another model's were kept of. */
async function embed({ id }) {
  const bitmap = await decode(await project.image(id));
  try {
    await project.setFeatures(id, await featuresOf(bitmap, true));
  } finally {
    bitmap.close();
  }
}

/** The best labels of an image by the head that was taught last, as the page's predictors give them. */
async function label({ image }) {
  const { head } = project;
  const bitmap = await decode(image);
  try {
    if (!head) throw refuse("failed", "nothing is taught yet");
    const values = await featuresOf(bitmap, image instanceof Blob);
    const logits = logitsOf(head, values, new Float64Array(head.bias.length));
    const highest = logits.reduce((most, each) => Math.max(most, each));
    const powers = logits.map((each) => Math.exp((each - highest) / head.temperature));
    const sum = powers.reduce((total, each) => total + each);
    const short = shortLabels(head.labels.map((each) => ({ label: each, wnid: null })));
    const ranked = [...powers.keys()].sort((one, other) => powers[other] - powers[one] || one - other).slice(0, TOP_K);
    return { predictions: ranked.map((place) => ({ label: short[place], short_label: short[place], score: powers[place] / sum })) };
  } finally {
    bitmap.close();
  }
}

/** Fits a head on all pictures; `cancel` ends it. */
async function teach(_, told) {
  const { classes, missing } = project.summary();
  const empty = classes.filter(({ pictures }) => !pictures.length).map(({ name }) => `“${name}”`);
  if (classes.length < 2) throw refuse("failed", "Teaching needs two classes or more, so that there is something to tell apart.");
  if (empty.length) throw refuse("failed", `There are no pictures of ${empty.join(", ")} yet: add some, or remove the class.`);
  if (missing.length) throw refuse("failed", `${missing.length} pictures are not prepared yet for this model.`);
  // In the order in which they came, whatever their class: the order decides what is held out together.
  const rows = classes.flatMap(({ pictures }, place) => pictures.map((id) => ({ id, place }))).sort((one, other) => one.id - other.id);
  cancelled = false;
  const found = await fitHead(
    rows.map(({ id }) => project.features.get(id)),
    Int32Array.from(rows, ({ place }) => place),
    classes.length,
    async (share) => {
      told(share);
      await new Promise((done) => setTimeout(done)); // so that a "cancel" comes in
      if (cancelled) throw refuse("cancelled", "Teaching was ended; what was taught before is still there.");
    },
  );
  const created = new Date().toISOString().slice(0, 10);
  const names = { labels: classes.map(({ name }) => name), classIds: classes.map(({ id }) => id) };
  await project.setHead({ ...found, ...names, images: rows.length, created });
  return project.taught();
}

/**
 * The model file with the head that was taught last, after it was run on some pictures of the project.
 *
 * @returns {Promise<{blob: Blob, name: string}>}
 */
async function modelFile() {
  const { head } = project;
  if (!head) throw refuse("failed", "Nothing is taught yet.");
  const { precision, backbone, card } = model;
  const channels = head.weight.length / head.bias.length;
  const about = { name: project.name, precision, backbone, channels, head };
  const trial = withHead(model.bytes, head, taughtCard(card, { ...about, verification: null }));
  const inference = await create(session.ort, trial, "wasm");
  try {
    const verification = await verified(inference, head);
    const bytes = withHead(model.bytes, head, taughtCard(card, { ...about, verification }));
    return new Blob([bytes], { type: "application/octet-stream" });
  } finally {
    await inference.release();
  }
}

// How a written file compares with the page's head, on pictures from the whole project.
async function verified(inference, head) {
  const ids = project.summary().classes.flatMap(({ pictures }) => pictures);
  const step = Math.max(1, Math.ceil(ids.length / MOST_CHECKED));
  const some = ids.filter((_, place) => place % step === 0);
  let [furthest, agreed] = [0, 0];
  for (const id of some) {
    const bitmap = await decode(await project.image(id));
    const pixels = prepare(bitmap, true, model.card.preprocessing);
    bitmap.close();
    const written = [...(await run(session.ort, inference, model.card, pixels)).logits.data];
    const features = (await run(session.ort, session.inference, model.card, pixels))[model.features].data;
    const wanted = [...logitsOf(head, features, new Float64Array(head.bias.length))];
    const largest = Math.max(...wanted.map(Math.abs), 1e-9);
    furthest = Math.max(furthest, ...wanted.map((each, place) => Math.abs(each - written[place]) / largest));
    agreed += wanted.indexOf(Math.max(...wanted)) === written.indexOf(Math.max(...written));
  }
  if (!(furthest <= CLOSE)) throw refuse("failed", "The written file answers otherwise than the page, and is not given out.");
  return {
    format: "onnx",
    precision: model.precision,
    engine: `onnxruntime-web ${session.ort.env.versions?.web ?? ""}`.trim(),
    images: some.length,
    max_difference: furthest,
    top1_agreement: some.length ? agreed / some.length : null,
  };
}
