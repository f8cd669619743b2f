// From decoded pixels to a network's input: the pixels of shvit.images.preprocess, value by value.
//
// Resampling is that of Pillow: each output pixel is a weighted mean of the source pixels under a filter that is as wide
// as the reduction; along one axis, rounded to 8 bits, then along the other. Weights are integers of 22 fractional bits.

const FRACTION_BITS = 32 - 8 - 2; // 8 bits of the pixel, and 2 for weights whose sum overshoots
const HALF = 1 << (FRACTION_BITS - 1);

// Aspect ratio above which only what the crop keeps is computed, by a resize of that part of the source.
const LONG = 100;
// The same for a whole resized image of more pixels.
const MAX_RESIZED = 50_000_000;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

// Keys' cubic convolution with a = -1/2.
export function cubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

// To the nearest integer, of two equally near the even one, as Python rounds.
export function roundHalfEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

/**
 * What becomes of an image's rows and columns: they are resized, then cropped or padded.
 *
 * @param {number} width of the image, in pixels
 * @param {number} height
 * @param {{image_size: number[], crop_ratio: number, resize_mode: string}} preprocessing of a model's card
 * @returns {{rows: object, columns: object}} each with `source`, `resized`, `first` (of those kept; minus what is padded
 *   before them) and `kept`, in pixels
 */
export function resizeAndCrop(width, height, { image_size: [keptHeight, keptWidth], crop_ratio, resize_mode }) {
  if (resize_mode === "squash") {
    return { rows: axis(height, keptHeight, keptHeight), columns: axis(width, keptWidth, keptWidth) };
  }
  if (resize_mode === "pad") {
    const shrinking = Math.max(height / keptHeight, width / keptWidth);
    const inside = (side) => Math.max(1, roundHalfEven(side / shrinking));
    const padded = (source, resized, kept) => ({ source, resized, first: -Math.floor((kept - resized) / 2), kept });
    return { rows: padded(height, inside(height), keptHeight), columns: padded(width, inside(width), keptWidth) };
  }
  const targetHeight = Math.floor(keptHeight / crop_ratio);
  const targetWidth = Math.floor(keptWidth / crop_ratio);
  const upright = width * targetHeight <= height * targetWidth;
  const fullWidth = upright ? targetWidth : Math.max(targetWidth, Math.floor((targetHeight * width) / height));
  const fullHeight = upright ? Math.max(targetHeight, Math.floor((targetWidth * height) / width)) : targetHeight;
  return { rows: axis(height, fullHeight, keptHeight), columns: axis(width, fullWidth, keptWidth) };
}

function axis(source, resized, kept) {
  return { source, resized, first: roundHalfEven((resized - kept) / 2), kept };
}

/**
 * The weights that make the kept pixels of an axis; padding has none.
 *
 * @returns {{starts: Int32Array, counts: Int32Array, weights: Int32Array, stride: number}} for output pixel i:
 *   `counts[i]` weights from `weights[i * stride]` on, for the source pixels from `starts[i]` on
 */
function resampling({ source, resized, first, kept }, interpolation, boxed) {
  const { support, weight } = FILTERS[interpolation];
  let low = 0;
  let scale = source / resized;
  if (boxed) {
    // The box's ends are single-precision numbers in Pillow.
    low = Math.fround(first * scale);
    const high = Math.fround(Math.min((first + kept) * scale, source));
    scale = Math.fround(high - low) / kept;
    first = 0;
  }
  if (resized < kept) [first, kept] = [0, resized];
  const width = Math.max(scale, 1); // of the filter, in source pixels: never narrower than one, so enlarging interpolates
  const reach = support * width;
  const stride = Math.ceil(reach) * 2 + 1;
  const starts = new Int32Array(kept);
  const counts = new Int32Array(kept);
  const weights = new Int32Array(kept * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < kept; i++) {
    const center = low + (first + i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const count = Math.min(source, Math.trunc(center + reach + 0.5)) - start;
    let sum = 0;
    for (let j = 0; j < count; j++) {
      exact[j] = weight((j + start - center + 0.5) * (1 / width));
      sum += exact[j];
    }
    for (let j = 0; j < count; j++) {
      const share = sum === 0 ? exact[j] : exact[j] * (1 / sum);
      weights[i * stride + j] = Math.trunc(share * (1 << FRACTION_BITS) + (share < 0 ? -0.5 : 0.5));
    }
    starts[i] = start;
    counts[i] = count;
  }
  return { starts, counts, weights, stride };
}

/**
 * What to do to images of one size; made once for a camera's frames.
 *
 * @returns {object} with the part of the image that is needed, `left`, `top`, `width`, `height`, in pixels; the weights
 *   along rows, `across`, and along columns, `down`; which comes first; and what is put around the result, `padding`
 */
export function plan(width, height, preprocessing) {
  const { rows, columns } = resizeAndCrop(width, height, preprocessing);
  const longer = Math.max(rows.resized, columns.resized);
  const shorter = Math.min(rows.resized, columns.resized);
  const boxed =
    preprocessing.resize_mode === "crop" && (longer > LONG * shorter || longer * shorter > MAX_RESIZED);
  const across = resampling(columns, preprocessing.interpolation, boxed);
  const down = resampling(rows, preprocessing.interpolation, boxed);
  // Which axis Pillow begins with shows in the last bit of some pixels: with the columns where they lose the most.
  const [newHeight, newWidth] = boxed ? [rows.kept, columns.kept] : [rows.resized, columns.resized];
  const downFirst = newHeight < height && 2 * (width - newWidth) < height - newHeight;
  const end = ({ starts, counts }) => starts[starts.length - 1] + counts[counts.length - 1];
  const [left, top] = [across.starts[0], down.starts[0]];
  const padding = { height: rows.kept, width: columns.kept, colour: preprocessing.pad_color };
  return { left, top, width: end(across) - left, height: end(down) - top, across, down, downFirst, padding };
}

/**
 * Resizes, and crops or pads.
 *
 * @param {Uint8ClampedArray|Uint8Array} pixels RGBA, of the part of the image that the plan names, row by row
 * @param {object} plan of `plan`
 * @returns {Uint8Array} RGB, row by row: (height, width, 3) with the card's `image_size`
 */
export function apply(pixels, { left, top, width, height, across, down, downFirst, padding }) {
  let result;
  if (downFirst) {
    result = resizeColumns(pixels, 4, width, top, down);
    result = resizeRows(result, 3, width, down.starts.length, left, across);
  } else {
    result = resizeRows(pixels, 4, width, height, left, across);
    result = resizeColumns(result, 3, across.starts.length, top, down);
  }
  return pad(new Uint8Array(result.buffer), down.starts.length, across.starts.length, padding);
}

// In the middle of the network's input; the same pixels where they fill it.
function pad(pixels, rows, columns, { height, width, colour }) {
  if (rows === height && columns === width) return pixels;
  const result = new Uint8Array(height * width * 3);
  for (let at = 0; at < result.length; at += 3) result.set(colour, at);
  const [top, left] = [Math.floor((height - rows) / 2), Math.floor((width - columns) / 2)];
  for (let y = 0; y < rows; y++) {
    result.set(pixels.subarray(y * columns * 3, (y + 1) * columns * 3), ((top + y) * width + left) * 3);
  }
  return result;
}

// Along each row: (height, width, channels) to (height, weights, 3).
function resizeRows(pixels, channels, width, height, left, { starts, counts, weights, stride }) {
  const result = new Uint8ClampedArray(height * starts.length * 3);
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < starts.length; x++, out += 3) {
      const end = x * stride + counts[x];
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let k = x * stride, at = (y * width + starts[x] - left) * channels; k < end; k++, at += channels) {
        const share = weights[k];
        red = (red + pixels[at] * share) | 0;
        green = (green + pixels[at + 1] * share) | 0;
        blue = (blue + pixels[at + 2] * share) | 0;
      }
      result[out] = red >> FRACTION_BITS;
      result[out + 1] = green >> FRACTION_BITS;
      result[out + 2] = blue >> FRACTION_BITS;
    }
  }
  return result;
}

// Along each column: (height, width, channels) to (weights, width, 3). A line at a time, in the order of memory.
function resizeColumns(pixels, channels, width, top, { starts, counts, weights, stride }) {
  const line = width * channels;
  const sums = new Int32Array(line);
  const result = new Uint8ClampedArray(starts.length * width * 3);
  for (let y = 0, out = 0; y < starts.length; y++) {
    sums.fill(HALF);
    for (let k = 0; k < counts[y]; k++) {
      const share = weights[y * stride + k];
      const from = (starts[y] - top + k) * line;
      for (let x = 0; x < line; x++) sums[x] += pixels[from + x] * share;
    }
    for (let x = 0; x < line; x += channels, out += 3) {
      result[out] = sums[x] >> FRACTION_BITS;
      result[out + 1] = sums[x + 1] >> FRACTION_BITS;
      result[out + 2] = sums[x + 2] >> FRACTION_BITS;
    }
  }
  return result;
}

/** A whole image's RGBA pixels to a network's input, `Uint8Array` (height, width, 3). */
export function preprocess(pixels, width, height, preprocessing) {
  const todo = plan(width, height, preprocessing);
  const part = new Uint8ClampedArray(todo.width * todo.height * 4);
  for (let y = 0; y < todo.height; y++) {
    const from = ((todo.top + y) * width + todo.left) * 4;
    part.set(pixels.subarray(from, from + todo.width * 4), y * todo.width * 4);
  }
  return apply(part, todo);
}
