// Minimises the loss of multinomial logistic regression, each class alike, plus penalty / 2 times the squared weights.
//
// Parameters are the weights for standardised features, class by class, and then the biases, which are not penalised.

const MEMORY = 8; // steps that L-BFGS remembers
const MOST_STEPS = 300;
const MOST_HALVINGS = 30; // of a step that does not lower the loss

/**
 * Pictures as fits take them.
 *
 * @param {Float32Array[]} features each (channels)
 * @param {Int32Array} labels from 0
 * @param {number} classes
 * @returns {object} `values` (pictures, channels) row by row, of mean 0 and deviation 1 in each channel. A channel that is
 *   always the same says nothing, and stays out.
 */
export function standardised(features, labels, classes) {
  const [rows, channels] = [features.length, features[0].length];
  const mean = new Float64Array(channels);
  const scale = new Float64Array(channels);
  for (const row of features) for (let channel = 0; channel < channels; channel++) mean[channel] += row[channel] / rows;
  for (const row of features) {
    for (let channel = 0; channel < channels; channel++) scale[channel] += (row[channel] - mean[channel]) ** 2 / rows;
  }
  for (let channel = 0; channel < channels; channel++) {
    scale[channel] = scale[channel] > 1e-12 ? 1 / Math.sqrt(scale[channel]) : 0;
  }
  const values = new Float64Array(rows * channels);
  features.forEach((row, place) => {
    const at = place * channels;
    for (let channel = 0; channel < channels; channel++) {
      values[at + channel] = (row[channel] - mean[channel]) * scale[channel];
    }
  });
  return { values, labels, classes, channels, mean, scale };
}

/** From parameters to a head for the features as they are: `weight` Float32Array (classes, channels), and `bias`. */
export function plain({ classes, channels, mean, scale }, parameters) {
  const weight = new Float32Array(classes * channels);
  const bias = new Float32Array(classes);
  for (let each = 0; each < classes; each++) {
    let shift = parameters[classes * channels + each];
    for (let channel = 0; channel < channels; channel++) {
      const value = parameters[each * channels + channel] * scale[channel];
      weight[each * channels + channel] = value;
      shift -= value * mean[channel];
    }
    bias[each] = shift;
  }
  return { weight, bias };
}

// Of each of some pictures, so that classes weigh the same; their sum is 1.
function weightsOf({ labels, classes }, places) {
  const counts = new Int32Array(classes);
  for (const place of places) counts[labels[place]]++;
  return Float64Array.from(places, (place) => 1 / (classes * counts[labels[place]]));
}

/** How much the loss of a picture bends with a logit, on the mean; at the start, where all classes are alike, without parameters. */
export function steepness(data, places, parameters) {
  const { classes } = data;
  if (!parameters) return (classes - 1) / classes ** 2;
  const sum = new Float64Array(1);
  evaluate(data, places, weightsOf(data, places), 0, parameters, new Float64Array(parameters.length), sum);
  return Math.max(sum[0], 1e-3);
}

/** What channels have to do with one another, on the mean of some pictures: (channels, channels), the lower half. */
export function correlations({ values, channels }, places) {
  const lower = new Float64Array(channels * channels);
  for (let place = 0; place < places.length; place += 4) {
    const rows = fourRows(places, place, channels);
    for (let row = 0; row < channels; row++) {
      const four = rows.map((at, more) => (place + more < places.length ? values[at + row] / places.length : 0));
      addRows(lower, row * channels, row + 1, values, rows, four);
    }
  }
  return lower;
}

/**
 * What a slope is multiplied by so that it leads nearly straight to the least loss: the inverse of how the loss bends, were
 * it the same for every picture and class. Pictures of a network have channels that go together, and without it a fit
 * takes hundreds of steps.
 *
 * @param {object} data of `standardised`
 * @param {Float64Array} correlated of `correlations`
 * @param {number} penalty
 * @param {number} steep of `steepness`
 * @returns {function(Float64Array): void} changes its argument
 */
export function conditioner({ channels, classes }, correlated, penalty, steep) {
  const lower = correlated.map((value) => value * steep);
  for (let row = 0; row < channels; row++) lower[row * channels + row] += penalty;
  // Cholesky's decomposition, in place.
  for (let row = 0; row < channels; row++) {
    for (let column = 0; column <= row; column++) {
      const [one, other] = [row * channels, column * channels];
      const rest = lower[one + column] - product(lower, one, lower, other, column);
      lower[one + column] = row === column ? Math.sqrt(rest) : rest / lower[other + column];
    }
  }
  return (slope) => {
    for (let each = 0; each < classes; each++) solve(lower, channels, slope.subarray(each * channels, (each + 1) * channels));
    for (let each = classes * channels; each < slope.length; each++) slope[each] /= steep;
  };
}

function solve(lower, size, vector) {
  for (let row = 0; row < size; row++) {
    vector[row] = (vector[row] - product(lower, row * size, vector, 0, row)) / lower[row * size + row];
  }
  for (let row = size - 1; row >= 0; row--) {
    const value = (vector[row] /= lower[row * size + row]);
    for (let column = 0; column < row; column++) vector[column] -= lower[row * size + column] * value;
  }
}

/**
 * Fits by L-BFGS (Nocedal 1980).
 *
 * @param {object} data of `standardised`
 * @param {Int32Array} places of the pictures that are learnt from
 * @param {number} penalty
 * @param {function} quick of `conditioner`
 * @param {number} close largest slope at which it ends
 * @param {?Float64Array} start parameters
 * @returns {Float64Array} parameters
 */
export function fit(data, places, penalty, quick, close, start) {
  const size = data.classes * (data.channels + 1);
  const weights = weightsOf(data, places);
  let here = start ? Float64Array.from(start) : new Float64Array(size);
  let slope = new Float64Array(size);
  let loss = evaluate(data, places, weights, penalty, here, slope);
  const steps = [];
  for (let step = 0; step < MOST_STEPS && steepest(slope) > close; step++) {
    const direction = descent(slope, steps, quick);
    const downhill = product(direction, 0, slope, 0, size);
    let [next, nextSlope, nextLoss] = [new Float64Array(size), new Float64Array(size), Infinity];
    for (let share = 1, tried = 0; tried < MOST_HALVINGS; tried++, share /= 2) {
      for (let at = 0; at < size; at++) next[at] = here[at] + share * direction[at];
      nextLoss = evaluate(data, places, weights, penalty, next, nextSlope);
      if (nextLoss <= loss + 1e-4 * share * downhill) break;
    }
    if (!(nextLoss < loss)) break; // as near as numbers of 64 bits come
    const moved = next.map((value, at) => value - here[at]);
    const turned = nextSlope.map((value, at) => value - slope[at]);
    const curvature = product(moved, 0, turned, 0, size);
    if (curvature > 0) steps.push({ moved, turned, curvature });
    if (steps.length > MEMORY) steps.shift();
    [here, slope, loss] = [next, nextSlope, nextLoss];
  }
  return here;
}

function descent(slope, steps, quick) {
  const direction = slope.map((value) => -value);
  const shares = [];
  for (const { moved, turned, curvature } of [...steps].reverse()) {
    const share = product(moved, 0, direction, 0, slope.length) / curvature;
    shares.push(share);
    add(direction, turned, -share);
  }
  quick(direction);
  for (const { moved, turned, curvature } of steps) {
    add(direction, moved, shares.pop() - product(turned, 0, direction, 0, slope.length) / curvature);
  }
  return direction;
}

// The loss, and its slope into `slope`; the mean of what it bends into `bend[0]`. Four pictures at a time, which takes half
// as long as one at a time.
function evaluate(data, places, weights, penalty, parameters, slope, bend) {
  const { values, labels, classes, channels } = data;
  slope.fill(0);
  const biases = classes * channels;
  const shares = [0, 1, 2, 3].map(() => new Float64Array(classes));
  let loss = 0;
  for (let row = 0; row < places.length; row += 4) {
    const rows = fourRows(places, row, channels);
    for (let more = 0; more < 4; more++) {
      const share = shares[more];
      if (row + more >= places.length) {
        share.fill(0);
        continue;
      }
      const at = places[row + more];
      for (let each = 0; each < classes; each++) {
        share[each] = parameters[biases + each] + product(values, at * channels, parameters, each * channels, channels);
      }
      loss += weights[row + more] * crossEntropy(share, labels[at]);
      for (let each = 0; each < classes; each++) {
        if (bend) bend[0] += (weights[row + more] * share[each] * (1 - share[each])) / classes;
        share[each] = weights[row + more] * (share[each] - (each === labels[at] ? 1 : 0));
        slope[biases + each] += share[each];
      }
    }
    for (let each = 0; each < classes; each++) {
      const four = [shares[0][each], shares[1][each], shares[2][each], shares[3][each]];
      addRows(slope, each * channels, channels, values, rows, four);
    }
  }
  for (let at = 0; at < biases; at++) {
    loss += (penalty / 2) * parameters[at] ** 2;
    slope[at] += penalty * parameters[at];
  }
  return loss;
}

// Where four pictures begin, from a place on; the last one again where there are no more.
function fourRows(places, from, channels) {
  return [0, 1, 2, 3].map((more) => places[Math.min(from + more, places.length - 1)] * channels);
}

// Adds so much of each of four rows.
function addRows(to, at, count, values, [a, b, c, d], [first, second, third, fourth]) {
  for (let each = 0; each < count; each++) {
    to[at + each] += first * values[a + each] + second * values[b + each] + third * values[c + each] + fourth * values[d + each];
  }
}

// Of logits, which become the shares that they stand for.
function crossEntropy(logits, label) {
  let highest = -Infinity;
  for (const each of logits) highest = Math.max(highest, each);
  const said = logits[label] - highest;
  let sum = 0;
  for (let each = 0; each < logits.length; each++) sum += logits[each] = Math.exp(logits[each] - highest);
  for (let each = 0; each < logits.length; each++) logits[each] /= sum;
  return Math.log(sum) - said;
}

// Four sums at a time: one alone waits for each addition.
function product(one, at, other, from, count) {
  let [a, b, c, d] = [0, 0, 0, 0];
  let place = 0;
  for (; place + 4 <= count; place += 4) {
    a += one[at + place] * other[from + place];
    b += one[at + place + 1] * other[from + place + 1];
    c += one[at + place + 2] * other[from + place + 2];
    d += one[at + place + 3] * other[from + place + 3];
  }
  for (; place < count; place++) a += one[at + place] * other[from + place];
  return a + b + c + d;
}

function add(to, values, share) {
  for (let at = 0; at < to.length; at++) to[at] += share * values[at];
}

function steepest(slope) {
  let most = 0;
  for (const each of slope) most = Math.max(most, Math.abs(each));
  return most;
}
