// A project as one file: a ZIP archive of class folders, which is what `shvit teach` takes, and `project.json`.

import { refuse } from "../runtime.js";
import { classOf } from "./names.js";
import { MOST_CLASSES, MOST_PICTURES } from "./project.js";
import { readZip, ZipWriter } from "./zip.js";

const ABOUT = "project.json";
const KIND = "shvit project";
const MOST_ABOUT = 2 ** 20; // bytes of it
const MOST_IMAGE = 64 * 2 ** 20; // bytes of a picture
const LONGEST_FOLDER = 80;
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i; // names that Windows has for devices
const IMAGE = /\.(jpe?g|png|webp|gif|bmp|avif)$/i;
const TYPES = { jpg: "image/jpeg", jpeg: "image/jpeg" };

/** Folders for classes: names that every system takes, none twice. */
export function foldersOf(names) {
  const taken = new Set();
  return names.map((name) => {
    let folder = name.replace(/[\p{Cc}<>:"/\\|?*]/gu, "_").slice(0, LONGEST_FOLDER).replace(/^[. ]+|[. ]+$/g, "");
    if (!folder || RESERVED.test(folder)) folder = `_${folder}`;
    const free = (each) => !taken.has(each.toLowerCase());
    for (let again = 2, first = folder; !free(folder); again++) folder = `${first} ${again}`;
    taken.add(folder.toLowerCase());
    return folder;
  });
}

/**
 * @param {object} project
 * @param {function(number): void} told is given the share that is done
 * @returns {Promise<Blob>}
 */
export async function written(project, told) {
  const { name, classes } = project.summary();
  const folders = foldersOf(classes.map((each) => each.name));
  const all = classes.reduce((sum, { pictures }) => sum + pictures.length, 0);
  const zip = new ZipWriter();
  let done = 0;
  const described = { kind: KIND, version: 1, name, classes: classes.map((each, place) => ({ name: each.name, folder: folders[place] })) };
  try {
    zip.add(ABOUT, new TextEncoder().encode(JSON.stringify(described, null, 2)));
    for (const [place, { pictures }] of classes.entries()) {
      for (const [rank, id] of pictures.entries()) {
        const image = await project.image(id);
        zip.add(`${folders[place]}/${String(rank + 1).padStart(5, "0")}.jpg`, new Uint8Array(await image.arrayBuffer()));
        told(++done / all);
      }
    }
    return zip.finish();
  } catch (error) {
    throw error instanceof RangeError ? refuse("failed", `The project cannot be saved: ${error.message}.`) : error;
  }
}

/**
 * What a file holds that is meant to be a project. Nothing of it is trusted: names are only shown, and sizes have bounds.
 *
 * @param {Blob} file any ZIP archive of class folders
 * @returns {Promise<{name: ?string, classes: string[], pictures: {className: string, name: string, read: function(): Promise<File>}[]}>}
 */
export async function opened(file) {
  try {
    const files = await readZip(file, MOST_PICTURES + MOST_CLASSES + 1);
    const about = await described(files.find(({ name }) => name === ABOUT));
    const called = new Map(about.classes.map(({ name, folder }) => [folder, name]));
    const pictures = files.filter(({ name }) => IMAGE.test(name) && !isHidden(name)).flatMap(({ name, read }) => {
      const [base, folder] = name.split("/").reverse();
      if (folder === undefined) return [];
      const type = TYPES[base.split(".").at(-1).toLowerCase()] ?? "";
      return [{ className: classOf(called.get(folder) ?? folder), name: base, read: async () => new File([await read(MOST_IMAGE)], base, { type }) }];
    });
    if (!pictures.length) throw new RangeError("it has no pictures in folders");
    if (new Set(pictures.map(({ className }) => className)).size > MOST_CLASSES) {
      throw new RangeError(`it has more than ${MOST_CLASSES} classes`);
    }
    return { name: about.name, classes: about.classes.map(({ name }) => classOf(name)), pictures };
  } catch (error) {
    if (error instanceof RangeError) throw refuse("failed", `${file.name ?? "The file"} cannot be opened: ${error.message}.`);
    throw error;
  }
}

function isHidden(name) {
  return name.split("/").some((each) => each.startsWith(".") || each === "__MACOSX");
}

async function described(file) {
  if (!file) return { name: null, classes: [] };
  try {
    const { kind, name, classes } = JSON.parse(new TextDecoder().decode(await file.read(MOST_ABOUT)));
    const texts = [name, ...classes.flatMap((each) => [each.name, each.folder])];
    if (kind !== KIND || texts.some((each) => typeof each !== "string")) throw new TypeError("another kind");
    return { name, classes };
  } catch (error) {
    if (error instanceof RangeError) throw error;
    throw new RangeError(`${ABOUT} in it is not a project's`);
  }
}
