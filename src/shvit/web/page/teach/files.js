// Files and folders that are chosen or dropped, as pictures of classes: a picture's class is the folder that it lies in.

import { classOf } from "./names.js";

const MOST_FILES = 50_000;
const DEEPEST = 12; // folders in one another
const IMAGE = /\.(jpe?g|png|webp|gif|bmp|avif|heic|heif|tiff?)$/i;

/** Whether a file means to be a picture; others in a folder, such as lists and thumbnails of the system, are passed over. */
function isPicture({ name, type }) {
  return !name.startsWith(".") && (type.startsWith("image/") || IMAGE.test(name));
}

/**
 * @param {Iterable<File>} files as a picker for folders or for files gives them
 * @returns {{file: File, folder: ?string}[]} `folder` is the innermost one, as a class's name; none for a file that was chosen alone
 */
export function chosen(files) {
  const folderOf = ({ webkitRelativePath }) => webkitRelativePath.split("/").at(-2);
  const found = [...files].filter(isPicture).map((file) => ({ file, folder: folderOf(file) && classOf(folderOf(file)) }));
  const byPath = ({ file: one }, { file: other }) => (one.webkitRelativePath < other.webkitRelativePath ? -1 : 1);
  return found.every(({ folder }) => folder) ? found.sort(byPath) : found; // browsers list folders in an order of their own
}

/**
 * What was dropped, with all that is in folders.
 *
 * @param {DataTransfer} transfer of the event; it is read at once, since it is empty afterwards
 * @param {function(number): void} told is given how many were found
 * @returns {Promise<{file: File, folder: ?string}[]>}
 * @throws {RangeError} there are too many
 */
export async function dropped(transfer, told) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  const visit = async (entry, folder, depth) => {
    if (entry.isFile) {
      const file = await new Promise((done) => entry.file(done, () => done(null)));
      if (file && isPicture(file)) found.push({ file, folder: folder && classOf(folder) });
      if (found.length > MOST_FILES) throw new RangeError(`more than ${MOST_FILES.toLocaleString("en")} pictures were dropped; shvit teach takes more`);
      if (found.length % 500 === 0) told(found.length);
      return;
    }
    if (depth > DEEPEST || entry.name.startsWith(".")) return;
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done) => reader.readEntries(done, () => done([])));
      if (!some.length) return;
      for (const each of some.sort((one, other) => (one.name < other.name ? -1 : 1))) await visit(each, entry.name, depth + 1);
    }
  };
  for (const entry of entries) await visit(entry, null, 0);
  return found;
}
