// Pictures as a project keeps them: JPEGs a little larger than the network's input, and whole.

import { resizeAndCrop } from "../preprocess.js";

const LARGER = 1.25; // than what the network sees of it, so that another model may see a little more
const LONGEST = 1024; // pixels of a side
const QUALITY = 0.9;
const MOST_BYTES = 256 * 1024; // of a file that is kept as it is

// What a picture is to be reduced by; 1 where it is small enough.
function reduction({ width, height }, preprocessing) {
  const { rows, columns } = resizeAndCrop(width, height, preprocessing);
  const wanted = LARGER * Math.max(rows.resized / height, columns.resized / width);
  return Math.min(1, wanted, LONGEST / Math.max(width, height));
}

/** Whether a file is one already, such as from a project that was saved. */
export function isSmall(file, bitmap, preprocessing) {
  return file.type === "image/jpeg" && file.size <= MOST_BYTES && reduction(bitmap, preprocessing) > 0.9;
}

/** @returns {Promise<Blob>} JPEG */
export function shrink(bitmap, preprocessing) {
  const scale = reduction(bitmap, preprocessing);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}
