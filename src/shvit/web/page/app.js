// The page: pictures and a camera in, labels out. Where they come from is the predictor's business.

import { showBars } from "./bars.js";
import { nextFrame, openStream } from "./camera.js";
import { followColours } from "./colours.js";
import { headline } from "./decide.js";
import { followDrops } from "./drops.js";
import { keepForOffline } from "./offline.js";
import { choosePredictor } from "./predictor.js";
import { followViews, modelIsThere } from "./views.js";
import { element, explainProblem, hideProblem, part, percent, say, showProblem } from "./words.js";

const RATE_WINDOW = 2000; // milliseconds that the live frame rate is taken over
const LATENCIES = 61; // frames that the median latency is taken over
const SPOKEN_EVERY = 4000; // milliseconds between announcements of the camera's label
const SURE = 0.5; // from this probability on, the best label stands out
const LOOK_EVERY = 250; // milliseconds between maps over the camera's frames, at least
const PAUSE_AFTER_PROBLEM = 1000; // milliseconds before the camera tries again

// What the first and the last colour of a map stand for.
const LEGENDS = {
  attention: ["no attention", "twice an even share, or more"],
  cam: ["speaks least for the first label", "speaks most"],
};


let predictor;
let ready; // a promise: the model is loaded
let camera = null; // while it runs: { stream, times, latencies }
let shown = null; // the picture on the stage: { name, blob, url, result, button }
const pictures = []; // of this visit

// ---- words -----------------------------------------------------------------------------------------------------------

let spokenAt = 0;
let spokenLabel = "";

/** Tells a screen reader of the camera's label: when it changes, and not too often. */
function sayNow(label, score) {
  const now = performance.now();
  if (label === spokenLabel || now - spokenAt < SPOKEN_EVERY) return;
  [spokenAt, spokenLabel] = [now, label];
  say(`${label}, ${percent(score)}`);
}

// ---- labels ----------------------------------------------------------------------------------------------------------

function showLabels({ predictions, decision }, source) {
  showBars(part("labels"), predictions);
  part("best").textContent = headline({ predictions, decision });
  part("best").classList.toggle("unsure", decision ? decision !== "answer" : predictions[0].score < SURE);
  part("source").textContent = source;
  part("hint").hidden = true;
}

function clearLabels(source) {
  part("labels").replaceChildren();
  part("best").textContent = "";
  part("source").textContent = source;
}

// ---- pictures --------------------------------------------------------------------------------------------------------

async function addPictures(blobs) {
  await stopCamera();
  hideProblem();
  const added = Array.from(blobs, (blob) => ({ name: blob.name || "pasted picture", blob, url: URL.createObjectURL(blob) }));
  if (!added.length) return;
  pictures.push(...added);
  for (const picture of added) addToStrip(picture);
  show(added[0]);
  await classifyAll(added);
}

/** Labels pictures one after another, as long as no other model is asked for. */
async function classifyAll(some) {
  const model = ready;
  for (const picture of some) if (model === ready) await classify(picture);
}

/** Labels a picture with the model that was chosen last; what another one answers meanwhile comes too late. */
async function classify(picture) {
  const model = ready;
  forget(picture);
  try {
    await model;
    const started = performance.now();
    const result = await predictor.predict(picture.blob);
    if (model !== ready) return;
    picture.result = { ...result, milliseconds: performance.now() - started };
    picture.button.querySelector("span").textContent = headline(result);
    if (picture === shown) say(`${picture.name}: ${headline(result)}, ${percent(result.predictions[0].score)}`);
  } catch (error) {
    if (model !== ready) return;
    picture.error = error;
    picture.button.classList.add("failed");
    picture.button.querySelector("span").textContent = "failed";
    // That a model cannot be loaded is told once, where it is loaded.
    if (await succeeds(model)) explainProblem(error, picture.name, () => classify(picture));
  }
  if (picture === shown && !camera) showResult(picture);
}

function succeeds(promise) {
  return promise.then(() => true, () => false);
}

function forget(picture) {
  picture.result = picture.error = undefined;
  picture.button.classList.remove("failed");
  picture.button.querySelector("span").textContent = "…";
  if (picture === shown && !camera) showResult(picture);
}

function show(picture) {
  shown = picture;
  stage("picture");
  part("picture").src = picture.url;
  part("picture").alt = picture.name;
  for (const each of pictures) each.button.setAttribute("aria-pressed", String(each === picture));
  part("strip").hidden = pictures.length < 2;
  showResult(picture);
}

/** What is known of the picture on the stage. */
function showResult(picture) {
  part("picture").hidden = picture.error?.kind === "image"; // nothing that a browser could show
  if (picture.result) {
    const { milliseconds } = picture.result;
    showLabels(picture.result, `${picture.name} · ${milliseconds.toFixed(0)} ms`);
  } else {
    clearLabels(picture.error ? `${picture.name}: no labels` : `${picture.name} …`);
  }
}

function addToStrip(picture) {
  const button = document.createElement("button");
  button.type = "button";
  const image = document.createElement("img");
  image.src = picture.url;
  image.alt = picture.name;
  const label = document.createElement("span");
  label.textContent = "…";
  button.append(image, label);
  button.onclick = () => stopCamera().then(() => show(picture));
  picture.button = button;
  const item = document.createElement("li");
  item.append(button);
  part("strip").append(item);
}

function stage(what) {
  for (const id of ["empty", "picture", "video"]) part(id).hidden = id !== what;
  part("rates").hidden = what !== "video";
  part("stage").classList.toggle("filled", what !== "empty");
  part("explain").disabled = what === "empty";
  part("explain").elements[0].checked = true;
  showLooked(null);
}

async function addSamples(names) {
  for (const name of names) {
    const button = document.createElement("button");
    button.type = "button";
    const image = document.createElement("img");
    image.src = `samples/${name}`;
    image.alt = name.replace(/\.\w+$/, "");
    image.width = image.height = 72;
    button.append(image);
    button.onclick = async () => {
      const response = await fetch(image.src).catch(() => null);
      if (!response?.ok) return showProblem(`${name} cannot be loaded.`, { retry: button.onclick });
      return addPictures([new File([await response.blob()], name, { type: "image/jpeg" })]);
    };
    const item = document.createElement("li");
    item.append(button);
    part("samples").append(item);
  }
}

// ---- camera ----------------------------------------------------------------------------------------------------------

let opening = null; // while a camera is being asked for

function startCamera() {
  opening ??= openCamera().finally(() => (opening = null));
  return opening;
}

async function openCamera() {
  hideProblem();
  let stream;
  try {
    stream = await openStream();
  } catch (error) {
    return explainProblem(error, null, startCamera);
  }
  const mine = { stream, times: [], latencies: [] };
  camera = mine;
  stream.getVideoTracks()[0].onended = () => {
    showProblem("The camera was taken away.", { retry: startCamera });
    stopCamera();
  };
  stage("video");
  part("camera").textContent = "Stop camera";
  part("camera").setAttribute("aria-pressed", "true");
  const video = part("video");
  video.srcObject = stream;
  await video.play().catch(() => {}); // given up where the camera is stopped before its first frame
  if (camera !== mine) return;
  say("Camera on");
  run(mine, video);
}

async function stopCamera() {
  if (!camera) return;
  for (const track of camera.stream.getTracks()) track.stop();
  camera = null;
  part("video").srcObject = null;
  part("camera").textContent = "Start camera";
  part("camera").setAttribute("aria-pressed", "false");
  say("Camera off");
  if (shown) show(shown);
  else {
    stage("empty");
    clearLabels("Labels");
  }
}

/** Classifies frame after frame, always the newest, one at a time. */
async function run(mine, video) {
  let failing = false;
  await ready.catch(() => {});
  while (camera === mine) {
    await nextFrame(video);
    if (camera !== mine) return;
    try {
      const started = performance.now();
      const result = await predictor.frame(video);
      if (camera !== mine) return;
      showRates(mine, performance.now() - started);
      showLabels(result, "Camera");
      sayNow(headline(result), result.predictions[0].score);
      if (failing) hideProblem();
      failing = false;
    } catch (error) {
      if (camera !== mine) return;
      failing = true;
      explainProblem(error);
      await new Promise((done) => setTimeout(done, PAUSE_AFTER_PROBLEM));
    }
  }
}

function showRates({ times, latencies }, latency) {
  const now = performance.now();
  times.push(now);
  while (times[0] < now - RATE_WINDOW) times.shift();
  latencies.push(latency);
  if (latencies.length > LATENCIES) latencies.shift();
  const median = [...latencies].sort((a, b) => a - b)[latencies.length >> 1];
  part("latency").textContent = median.toFixed(median < 9.95 ? 1 : 0);
  if (times.length > 1) part("fps").textContent = ((times.length - 1) / ((now - times[0]) / 1000)).toFixed(0);
}

// ---- model -----------------------------------------------------------------------------------------------------------

async function loadModel(name) {
  part("loading").hidden = false;
  part("hint").hidden = true;
  part("where").textContent = `Loading ${name}`;
  const bar = part("loading").querySelector("progress");
  try {
    const { card, where } = await predictor.load(name, (share) => (bar.value = share));
    part("where").textContent = `${name}, ${where}`;
    describe(card);
    localStorage.setItem("model", name);
    modelIsThere(predictor, name);
  } catch (error) {
    part("where").textContent = "No model is loaded";
    throw error;
  } finally {
    bar.removeAttribute("value");
    part("loading").hidden = true;
    part("hint").hidden = Boolean(shown || camera);
  }
}

function switchModel(name) {
  hideProblem();
  wait(loadModel(name), () => switchModel(name));
  if (shown && !camera) show(shown); // without the other model's map
  classifyAgain();
}

/** Labels all pictures of this visit with the model that is loading, the one on the stage first. */
function classifyAgain() {
  pictures.forEach(forget);
  return classifyAll([...pictures].sort((one, other) => (other === shown) - (one === shown)));
}

/** Holds pictures and the camera back until a model is there; tells when it cannot be. */
function wait(loading, retry) {
  ready = loading;
  loading.catch((error) => explainProblem(error, null, retry));
}

function describe(card) {
  const known = {
    architecture: card.architecture,
    classes: card.number_of_classes ?? card.classes.length,
    input: card.preprocessing?.image_size?.join(" × "),
    "trained on": card.training_data,
    measured: card.metrics?.map(({ name, value, dataset }) => `${name} ${(100 * value).toFixed(1)} % on ${dataset}`).join("; "),
    licence: card.licence,
    notes: card.notes,
  };
  const rows = Object.entries(known).filter(([, value]) => value);
  part("about").querySelector("dl").replaceChildren(
    ...rows.flatMap(([term, value]) => [element("dt", term), element("dd", value)]),
  );
  part("about").hidden = !rows.length;
}

// ---- what the network looked at --------------------------------------------------------------------------------------

/** Offers maps, where there is something that makes them. */
async function offerExplanations() {
  for (const kind of await predictor.explanations()) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "explain", value: kind });
    label.append(input, { attention: "attention", cam: "class map" }[kind] ?? kind);
    part("explain").append(label);
    part("explain").hidden = false;
  }
  part("explain").onchange = () => (camera ? lookOn(camera) : look());
  part("looked").onclick = (event) => {
    if (!camera && mapChosen() === "attention") look(pixelAt(event));
  };
}

/** The kind of map that is asked for; "" for none. */
function mapChosen() {
  return part("explain").querySelector(":checked").value;
}

/** A map over the picture on the stage; with a pixel, of the attention there. */
async function look(pixel) {
  const [picture, kind] = [shown, mapChosen()];
  if (!kind) return showLooked(null);
  try {
    const blob = await predictor.explain(picture.blob, kind, pixel);
    if (picture !== shown || camera || kind !== mapChosen()) return;
    showLooked(blob, kind, picture.name);
    part("looked").classList.toggle("asks", kind === "attention");
    say(`Map of ${picture.name}: ${kind}`);
  } catch (error) {
    explainProblem(error, picture.name);
    if (part("looked").hidden) part("explain").elements[0].checked = true;
  }
}

/** Maps over the camera's frames, always the newest, as long as one is chosen. */
async function lookOn(mine) {
  if (mine.looking) return;
  mine.looking = true;
  for (let kind; camera === mine && (kind = mapChosen()); ) {
    const began = performance.now();
    try {
      const blob = await predictor.explainFrame(part("video"), kind);
      if (camera === mine && kind === mapChosen()) showLooked(blob, kind, "Camera");
    } catch (error) {
      if (camera !== mine) return;
      explainProblem(error);
      part("explain").elements[0].checked = true;
    }
    await new Promise((done) => setTimeout(done, began + LOOK_EVERY - performance.now()));
  }
  mine.looking = false;
  if (camera === mine) showLooked(null);
}

function showLooked(blob, kind, name) {
  const image = part("looked");
  URL.revokeObjectURL(image.src);
  image.hidden = !blob;
  image.alt = blob ? `${name}, ${kind}` : "";
  part("legend").hidden = !blob;
  if (blob) [part("least").textContent, part("most").textContent] = LEGENDS[kind];
  image.classList.remove("asks");
  if (blob) image.src = URL.createObjectURL(blob);
  else image.removeAttribute("src");
}

/** Where in the picture's own pixels somebody pressed; the picture is fitted into the stage. */
function pixelAt({ offsetX, offsetY }) {
  const { naturalWidth, naturalHeight, clientWidth, clientHeight } = part("picture");
  const scale = Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight);
  return {
    x: Math.floor((offsetX - (clientWidth - naturalWidth * scale) / 2) / scale),
    y: Math.floor((offsetY - (clientHeight - naturalHeight * scale) / 2) / scale),
  };
}

// ---- the page --------------------------------------------------------------------------------------------------------

function followInput() {
  const file = part("file");
  const pick = () => file.click();
  part("empty").onclick = pick;
  part("choose").onclick = pick;
  file.onchange = () => addPictures([...file.files]).finally(() => (file.value = ""));
  part("camera").onclick = () => (camera ? stopCamera() : startCamera());
  part("dismiss").onclick = hideProblem;

  followDrops({ stage: part("stage"), taken: addPictures });
}

async function start() {
  const response = await fetch("config.json").catch(() => null);
  if (!response?.ok) {
    throw Object.assign(new Error("The page's configuration cannot be loaded."), { kind: "gone" });
  }
  const config = await response.json();
  addSamples(config.samples);
  if (config.predictor === "browser") await keepForOffline(() => !pictures.length && !camera);
  predictor = choosePredictor(config, new URLSearchParams(location.search));
  part("token-form").onsubmit = (event) => {
    event.preventDefault();
    predictor.token = part("token").value;
    hideProblem();
    wait(begin(), () => location.reload());
    classifyAgain();
  };
  await begin();
}

async function begin() {
  const names = await predictor.models();
  const remembered = localStorage.getItem("model");
  const name = names.includes(remembered) ? remembered : names[0];
  part("models").replaceChildren(...names.map((each) => new Option(each, each, false, each === name)));
  part("models").onchange = () => switchModel(part("models").value);
  part("model-choice").hidden = names.length < 2;
  await loadModel(name);
  await offerExplanations();
}

followColours();
followInput();
followViews(stopCamera);
wait(start(), () => location.reload());
