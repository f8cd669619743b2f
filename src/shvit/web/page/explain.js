// What the network looked at: the maps of shvit.predicting.explain, drawn as shvit.drawing.overlay draws them.

import { cubic, resizeAndCrop, roundHalfEven } from "./preprocess.js";

/**
 * The part of an image that the network's input shows, in pixels; with padding it is larger than the image.
 *
 * @param {{image_size: number[], crop_ratio: number, resize_mode: string}} preprocessing of a model's card
 * @returns {{left: number, top: number, right: number, bottom: number}}
 */
export function keptRegion(width, height, preprocessing) {
  const { rows, columns } = resizeAndCrop(width, height, preprocessing);
  const [left, right] = sourceRange(columns);
  const [top, bottom] = sourceRange(rows);
  return { left, top, right, bottom };
}

function sourceRange({ source, resized, first, kept }) {
  const scale = source / resized;
  if (resized < kept) return [first * scale, (first + kept) * scale];
  return [first * scale, Math.min((first + kept) * scale, source)];
}

/**
 * Attention in multiples of an even share: what the token at a point takes from each, or all of them on average.
 *
 * @param {{data: Float32Array, dims: number[]}} weights (1, tokens, tokens) or (1, heads, tokens, tokens)
 * @param {number[]} imageSize of the network's input, rows and columns: the tokens' grid has its proportions
 * @param {object} region of `keptRegion`
 * @param {?{x: number, y: number}} point in the image's pixels
 * @returns {?object} `values` row by row, `rows`, `columns`, `limits` and the asking `token`; null outside of the region
 */
export function attentionMap({ data, dims }, imageSize, region, point) {
  const tokens = dims.at(-1);
  const heads = data.length / tokens ** 2;
  let [rows, columns] = imageSize;
  while (rows * columns > tokens) [rows, columns] = [Math.ceil(rows / 2), Math.ceil(columns / 2)];
  const { left, top, right, bottom } = region;
  if (point && !(left <= point.x && point.x < right && top <= point.y && point.y < bottom)) return null;
  const token = point && {
    row: Math.trunc(((point.y - top) / (bottom - top)) * rows),
    column: Math.trunc(((point.x - left) / (right - left)) * columns),
  };
  const asking = token ? [token.row * columns + token.column] : [...Array(tokens).keys()];
  const values = new Float64Array(tokens);
  for (let head = 0; head < heads; head++) {
    for (const one of asking) {
      for (let other = 0; other < tokens; other++) values[other] += data[(head * tokens + one) * tokens + other];
    }
  }
  const share = tokens / (heads * asking.length);
  for (let each = 0; each < tokens; each++) values[each] *= share;
  return { values, rows, columns, limits: [0, Math.max(2, ...values)], token };
}

/**
 * What each place adds to a class's logit (Zhou et al. 2016).
 *
 * @param {{data: Float32Array, dims: number[]}} features (1, channels, rows, columns)
 * @param {{data: Float32Array, dims: number[]}} classWeights (classes, channels)
 * @param {number} classId
 * @returns {object} as `attentionMap` has it
 */
export function classActivation(features, classWeights, classId) {
  const [, channels, rows, columns] = features.dims;
  const places = rows * columns;
  const values = new Float64Array(places);
  // Of a head that reads several stages' features, the last stage's come last.
  const first = (classId + 1) * classWeights.dims[1] - channels;
  for (let channel = 0; channel < channels; channel++) {
    const weight = classWeights.data[first + channel];
    for (let place = 0; place < places; place++) values[place] += weight * features.data[channel * places + place];
  }
  return { values, rows, columns, limits: [Math.min(...values), Math.max(...values)] };
}

/**
 * A map over its image; what the network does not see is darkened.
 *
 * @param {ImageBitmap} bitmap
 * @param {object} region of `keptRegion`
 * @param {object} map of `attentionMap` or `classActivation`
 * @param {object} look `colours`, 256 of six hexadecimal digits; `alpha`, how much of the picture they take; `outside`,
 *   brightness of the rest; `max_side`, pixels of the longer side at most
 * @returns {Promise<Blob>} PNG
 */
export function draw(bitmap, region, map, { colours, alpha, outside, max_side }) {
  const scale = Math.min(1, max_side / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, roundHalfEven(bitmap.width * scale));
  const height = Math.max(1, roundHalfEven(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const picture = context.getImageData(0, 0, width, height);
  const [across, down] = [width / bitmap.width, height / bitmap.height];
  const seen = { left: region.left * across, top: region.top * down, right: region.right * across, bottom: region.bottom * down };
  const box = wholePixels(seen, width, height);
  const table = Uint8Array.from({ length: colours.length / 2 }, (_, at) => parseInt(colours.slice(2 * at, 2 * at + 2), 16));
  const [low, high] = map.limits;
  const range = high > low ? high - low : 1;
  const [least, most] = [Math.min(...map.values), Math.max(...map.values)];
  const rows = interpolation(box.top, box.bottom, map.rows);
  const columns = interpolation(box.left, box.right, map.columns);
  const line = new Float64Array(map.columns);
  const { data } = picture;
  for (let y = 0, at = 0; y < height; y++) {
    const row = rows[y - box.top];
    if (row) line.forEach((_, place) => (line[place] = mean(row, (each) => map.values[each * map.columns + place])));
    for (let x = 0; x < width; x++, at += 4) {
      const column = columns[x - box.left];
      if (!row || !column) {
        for (let channel = 0; channel < 3; channel++) data[at + channel] = blend(0, data[at + channel], outside);
        continue;
      }
      const value = Math.min(most, Math.max(least, mean(column, (each) => line[each])));
      const level = (value - low) / range;
      const colour = 3 * Math.round(255 * Math.min(1, Math.max(0, level)));
      const grey = (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 32768) >> 16;
      for (let channel = 0; channel < 3; channel++) {
        // Under colours the picture is in grey: its own would be taken for the map's.
        const under = blend(data[at + channel], grey, alpha);
        data[at + channel] = blend(under, table[colour + channel], alpha);
      }
    }
  }
  context.putImageData(picture, 0, 0);
  if (map.token) frame(context, seen, map);
  return canvas.convertToBlob({ type: "image/png" });
}

// As Pillow blends: to whole levels, rounded down.
function blend(one, other, share) {
  return Math.trunc(one + share * (other - one));
}

// The pixels nearest to a region, at least one.
function wholePixels({ left, top, right, bottom }, width, height) {
  const first = [Math.min(roundHalfEven(left), width - 1), Math.min(roundHalfEven(top), height - 1)];
  return {
    left: first[0],
    top: first[1],
    right: Math.max(roundHalfEven(right), first[0] + 1),
    bottom: Math.max(roundHalfEven(bottom), first[1] + 1),
  };
}

// For each pixel of an axis, the values around it and how much it has of each: Pillow's bicubic interpolation.
function interpolation(from, to, count) {
  const scale = count / (to - from);
  const width = Math.max(scale, 1);
  return Array.from({ length: to - from }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - 2 * width + 0.5));
    const end = Math.min(count, Math.trunc(center + 2 * width + 0.5));
    const weights = Array.from({ length: end - first }, (_, each) => cubic((first + each - center + 0.5) / width));
    const sum = weights.reduce((total, each) => total + each, 0);
    return { first, weights: weights.map((each) => each / sum) };
  });
}

// Of the values that `interpolation` names.
function mean({ first, weights }, value) {
  let sum = 0;
  for (let each = 0; each < weights.length; each++) sum += weights[each] * value(first + each);
  return sum;
}

// Around the token that asks.
function frame(context, { left, top, right, bottom }, { token, rows, columns }) {
  const { width, height } = context.canvas;
  const [wide, high] = [(right - left) / columns, (bottom - top) / rows];
  const [x, y] = [left + token.column * wide, top + token.row * high];
  const cell = wholePixels({ left: x, top: y, right: x + wide - 1, bottom: y + high - 1 }, width, height);
  const line = Math.max(1, roundHalfEven(Math.min(width, height) / 160));
  for (const [thickness, colour] of [[2 * line, "black"], [line, "white"]]) {
    context.lineWidth = thickness;
    context.strokeStyle = colour;
    const inset = thickness / 2;
    context.strokeRect(
      cell.left + inset,
      cell.top + inset,
      cell.right - cell.left + 1 - thickness,
      cell.bottom - cell.top + 1 - thickness,
    );
  }
}
