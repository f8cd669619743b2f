// The Teach view: classes, pictures and what is made of them. The work is the worker's; what is shown is in the other parts.

import { Calls, problem } from "../calls.js";
import { followDrops } from "../drops.js";
import { explainProblem, hideProblem, part, say, showProblem } from "../words.js";
import { ClassList, counted } from "./classes.js";
import { expectation } from "./expectation.js";
import { chosen, dropped } from "./files.js";
import { Queue } from "./queue.js";
import { Stage } from "./stage.js";

const LOCK = "shvit-teach"; // held by the page that has the project open
const SHOWN_EVERY = 250; // milliseconds, while pictures come in
const LOCK_PATIENCE = 3000; // milliseconds

let predictor;
let calls = null; // to the worker, once the view was opened
let opening = null; // a promise: the model of that name is loaded, and the project
let openedModel = null;
let project = { name: "mine", classes: [], missing: [], taught: null };
let list;
let stage;
let loading = false;
let locked = false; // no other page has the project
let teaching = false;
let chosenFor = null; // the class that pictures are being chosen for
const undos = []; // of what was done last: functions
const changed = new Set(); // classes to be shown anew

const queue = new Queue({ changed: () => showLater(), ended });

/** Shows the view, with the model that is chosen. */
export async function openTeach(newPredictor, model) {
  predictor = newPredictor;
  if (!calls) begin();
  if (openedModel !== model) await load(model);
}

/** What is left running when another view is shown: pictures that wait, but not the camera. */
export function closeTeach() {
  stage?.stop();
}

function begin() {
  calls = new Calls(new URL("worker.js", import.meta.url));
  stage = new Stage({ calls, paused: () => teaching, keep: keepFrame });
  list = new ClassList({
    rename: guarded((id, name) => renameClass(id, name)),
    remove: guarded(removeClass),
    choose: (id) => choose(id, "teach-files"),
    hold: guarded((id) => stage.hold(id)),
    release: () => stage.release(),
    image: (id) => calls.ask("thumbnail", { id }),
    removePicture: guarded(removePicture),
  });
  followDrops({
    stage: part("teach-stage"),
    taken: guarded((files) => addFiles(chosen(files), null)),
    dropped: guarded(drop),
  });
  followControls();
  addEventListener("beforeunload", (event) => queue.busy && event.preventDefault());
}

/** The same function, whose errors are told. */
function guarded(does) {
  return async (...given) => {
    try {
      hideProblem();
      return await does(...given);
    } catch (error) {
      if (error instanceof RangeError) showProblem(error.message);
      else explainProblem(error);
      return show();
    }
  };
}

// ---- the model and the project ---------------------------------------------------------------------------------------

async function load(model) {
  openedModel = model;
  loading = true;
  show();
  busy("Loading the model");
  opening = (async () => {
    await takeLock();
    const from = { name: model, ...(await predictor.teaching(model)) };
    const threads = Number(new URLSearchParams(location.search).get("threads"));
    const place = new URL(".", document.baseURI).pathname;
    const { runtime } = from;
    return calls.ask("open", { from, runtime, threads, place }, { told: (share) => busy("Loading the model", share) });
  })();
  try {
    const found = await opening;
    if (openedModel !== model) return; // another was chosen meanwhile
    project = found;
    part("teach").inert = false;
  } catch (error) {
    if (openedModel !== model) return;
    openedModel = null; // so that the same is tried again
    explainProblem(error, null, () => openTeach(predictor, model));
  }
  loading = false;
  busy(null);
  undos.length = 0;
  show();
  if (project.missing.length) embedMissing();
}

/** One page at a time: two would each write what the other does not know. */
function takeLock() {
  if (!navigator.locks || locked) return undefined;
  return new Promise((done, failed) => {
    const held = () => {
      locked = true;
      done();
      return new Promise(() => {}); // until the page is closed
    };
    // A page that is loaded again waits for the one before it.
    navigator.locks.request(`${LOCK}:${location.pathname}`, { signal: AbortSignal.timeout(LOCK_PATIENCE) }, held).catch(() =>
      failed(problem("gone", "The project is open in another tab: close that one first.")),
    );
  });
}

function embedMissing() {
  const jobs = project.missing.map((id) => ({ name: `picture ${id}`, work: () => calls.ask("embed", { id }) }));
  project.missing = [];
  enqueue(jobs);
}

async function refresh() {
  project = await calls.ask("summary");
  show();
}

// ---- classes and pictures --------------------------------------------------------------------------------------------

async function addClass(name) {
  navigator.storage?.persist?.(); // a browser may clear what it was not asked to keep
  const { id, name: clean } = await calls.ask("addClass", { name });
  const added = { id, name: clean, pictures: [] };
  project.classes.push(added);
  outdated();
  undos.push(() => calls.ask("setClassRemoved", { classId: id, removed: true }));
  show();
  return added;
}

async function renameClass(classId, name) {
  const before = project.classes.find(({ id }) => id === classId).name;
  await calls.ask("renameClass", { classId, name }).finally(refresh);
  undos.push(() => calls.ask("renameClass", { classId, name: before }));
}

async function removeClass(classId) {
  await calls.ask("setClassRemoved", { classId, removed: true });
  undos.push(() => calls.ask("setClassRemoved", { classId, removed: false }));
  say("Class removed");
  await refresh();
}

async function removePicture(id) {
  await calls.ask("setPictureRemoved", { id, removed: true });
  undos.push(() => calls.ask("setPictureRemoved", { id, removed: false }));
  say("Picture removed");
  await refresh();
}

async function undo() {
  const last = undos.pop();
  if (!last) return;
  await last();
  say("Undone");
  await refresh();
}

/** What was taught no longer is of all that there is. */
function outdated() {
  if (project.taught) project.taught.current = false;
}

function noted(id, classId) {
  const found = project.classes.find((each) => each.id === classId);
  if (!found) return; // removed while it was being added
  found.pictures.push(id);
  changed.add(found);
  outdated();
  undos.push(() => calls.ask("setPictureRemoved", { id, removed: true }));
}

function enqueue(jobs) {
  queue.add(jobs);
  showState();
}

function keepFrame(image, classId) {
  return new Promise((done) => {
    const work = async () => noted(await calls.ask("add", { image, classId, name: "camera" }, { transfer: [image] }), classId);
    enqueue([{ name: "camera", work: () => work().finally(done) }]);
  });
}

/** @param {{file: File, folder: ?string}[]} files those in folders belong to the class of that name, unless one is given */
async function addFiles(files, classId) {
  if (!files.length) throw new RangeError("There are no pictures in it.");
  if (!classId && files.some(({ folder }) => !folder)) {
    if (project.taught && files.length === 1) return stage.try(files[0].file);
    throw new RangeError("Drop a folder, whose name is the class's, or put pictures on a class.");
  }
  await opening;
  const classes = new Map(project.classes.map(({ id, name }) => [name, id]));
  for (const { folder } of classId ? [] : files) {
    if (!classes.has(folder)) classes.set(folder, (await addClass(folder)).id);
  }
  enqueue(
    files.map(({ file, folder }) => {
      const to = classId ?? classes.get(folder);
      return { name: file.name, work: async () => noted(await calls.ask("add", { image: file, name: file.name, classId: to }), to) };
    }),
  );
  return undefined;
}

async function drop({ dataTransfer, target }) {
  const over = target.closest?.("[data-class-id]");
  const files = await dropped(dataTransfer, (count) => busy(`Reading folders: ${count.toLocaleString("en")}`));
  busy(null);
  const archives = files.length ? [] : [...dataTransfer.files].filter(({ name }) => /\.zip$/i.test(name));
  if (archives.length) return openProject(archives[0]);
  return addFiles(files, over ? Number(over.dataset.classId) : null);
}

function choose(classId, input) {
  chosenFor = classId;
  part(input).click();
}

/** All pictures that waited were taken, or one of them ended it. */
async function ended({ leftOut }, error) {
  showLater();
  if (leftOut) showProblem(leftOut);
  if (!error) return;
  await refresh();
  explainProblem(error);
}

// ---- teaching --------------------------------------------------------------------------------------------------------

async function teach() {
  if (queue.busy) throw new RangeError("Pictures are still being taken in: wait for them, or press Cancel.");
  teaching = true;
  show();
  try {
    project.taught = await calls.ask("teach", {}, { told: (share) => busy("Teaching", share) });
    say("Taught");
  } finally {
    teaching = false;
    busy(null);
    show();
  }
  await stage.again();
}

// ---- files -----------------------------------------------------------------------------------------------------------

async function saveModel() {
  busy("Writing the model");
  const blob = await calls.ask("modelFile").finally(() => busy(null));
  give(blob, `${fileName()}.onnx`);
}

async function saveProject() {
  busy("Writing the project");
  const blob = await calls.ask("projectFile", {}, { told: (share) => busy("Writing the project", share) }).finally(() => busy(null));
  give(blob, `${fileName()}.zip`);
}

function fileName() {
  return project.name.replace(/[^\p{L}\p{N}_-]+/gu, "_").replace(/^_+|_+$/g, "") || "mine";
}

function give(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when it is surely written
}

/** Adds what a project file holds to what is there. */
async function openProject(file) {
  await opening;
  const { name, classes, pictures } = await calls.ask("openArchive", { file });
  if (name && !project.classes.length) await setName(name);
  const known = new Map(project.classes.map((each) => [each.name, each.id]));
  for (const each of new Set([...classes, ...pictures.map(({ className }) => className)])) {
    if (!known.has(each)) known.set(each, (await addClass(each)).id);
  }
  enqueue(
    pictures.map((each, place) => {
      const classId = known.get(each.className);
      return { name: each.name, work: async () => noted(await calls.ask("addFromArchive", { place, classId }), classId) };
    }),
  );
}

async function setName(name) {
  await calls.ask("setName", { name });
  await refresh();
}

async function startOver() {
  if (!confirm("Remove all classes and pictures? A project that was not saved as a file is lost.")) return;
  queue.cancel();
  await calls.ask("clear");
  undos.length = 0;
  await refresh();
}

// ---- what is shown ---------------------------------------------------------------------------------------------------

let drawing = false;

/** Counts, progress and pictures now and then, however many come in. */
function showLater() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    for (const each of changed) if (project.classes.includes(each)) list.update(each);
    changed.clear();
    showState();
  }, SHOWN_EVERY);
}

function show() {
  list.show(project.classes);
  if (document.activeElement !== part("project-name")) part("project-name").value = project.name;
  showState();
}

function showState() {
  stage.taught = Boolean(project.taught);
  part("teach-go").disabled = teaching || loading || queue.busy || !openedModel;
  part("teach-undo").disabled = !undos.length || teaching;
  part("teach-cancel").hidden = !queue.busy && !teaching;
  part("save-model").disabled = !project.taught || teaching;
  part("save-project").disabled = part("project-clear").disabled = !project.classes.length || teaching;
  part("class-hint").hidden = project.classes.length > 0;
  part("teach-said").textContent = project.taught ? expectation(project.taught) : "";
  if (queue.busy) busy(`Taking in ${queue.done.toLocaleString("en")} of ${counted(queue.total)}`, queue.done / queue.total);
  else if (!teaching && part("teach-busy").dataset.queue) busy(null);
  part("teach-busy").dataset.queue = queue.busy ? "yes" : "";
}

/** Says what is being done, with the share that is; null for nothing. */
function busy(text, share) {
  part("teach-busy").hidden = text === null;
  part("teach-busy").querySelector("p").textContent = text ?? "";
  const bar = part("teach-busy").querySelector("progress");
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}

function followControls() {
  part("teach-camera").onclick = guarded(() => (stage.on ? stage.stop() : stage.start()));
  part("teach-empty").onclick = part("teach-folder").onclick = () => choose(null, "teach-folders");
  part("teach-try").onclick = () => part("teach-tried").click();
  part("teach-go").onclick = guarded(teach);
  part("teach-undo").onclick = guarded(undo);
  part("teach-cancel").onclick = () => {
    queue.cancel();
    calls.tell("cancel");
    showState();
  };
  part("save-model").onclick = guarded(saveModel);
  part("save-project").onclick = guarded(saveProject);
  part("open-project").onclick = () => part("project-file").click();
  part("project-clear").onclick = guarded(startOver);
  part("project-name").onchange = guarded(({ target }) => setName(target.value));
  part("class-add").onsubmit = (event) => {
    event.preventDefault();
    guarded(async () => {
      await opening;
      await addClass(part("class-new").value);
      part("class-new").value = "";
    })();
  };
  const picked = (input, does) => {
    part(input).onchange = guarded(async ({ target }) => {
      const files = [...target.files];
      target.value = "";
      if (files.length) await does(files);
    });
  };
  picked("teach-files", (files) => addFiles(chosen(files), chosenFor));
  picked("teach-folders", (files) => addFiles(chosen(files), null));
  picked("teach-tried", ([file]) => stage.try(file));
  picked("project-file", ([file]) => openProject(file));
}
