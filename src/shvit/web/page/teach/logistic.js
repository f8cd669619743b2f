// The head: multinomial logistic regression with an L2 penalty, on features that lie in memory. Deterministic.
//
// Each class weighs the same, however many pictures it has. Features are standardised before, and the result is put in
// terms of the features as they are, which is what a graph's head takes. Penalties are those of `shvit teach`.

import { conditioner, correlations, fit, plain, standardised, steepness } from "./optimise.js";

const PENALTIES = [1, 0.3, 0.1, 0.03, 0.01, 0.003]; // from strong to weak: each fit starts where the last ended
const FOLDS = 5;
const MOST_FOR_CHOICE = 4000; // pictures that the penalty is chosen on; more change little and take minutes
const CLOSE = 1e-3; // largest slope at which a fit of cross-validation ends
const CLOSER = 1e-6; // and that of the last fit
const WORSE = 1.05; // times the least loss so far: from there on weaker penalties only make it worse
const MIN_TEMPERATURE = 0.05;
const MAX_TEMPERATURE = 20;
const Z = 1.959963984540054; // of a 95 % interval

/**
 * Which part of cross-validation a picture is held out in: classes are cut into parts of pictures that came one after
 * another, because a camera's neighbouring frames are nearly the same picture, and held out at random one of them would
 * be known from the others.
 *
 * @param {Int32Array} labels of the pictures in the order in which they came, from 0
 * @param {number} classes
 * @returns {Int8Array} 0 to 4; -1 for the only picture of its class, which is always learnt from
 */
export function foldsOf(labels, classes) {
  const counts = countsOf(labels, classes);
  const seen = new Int32Array(classes);
  return Int8Array.from(labels, (label) => {
    const place = seen[label]++;
    return counts[label] === 1 ? -1 : Math.floor((place * FOLDS) / Math.max(counts[label], FOLDS));
  });
}

function countsOf(labels, classes) {
  const counts = new Int32Array(classes);
  for (const label of labels) counts[label]++;
  return counts;
}

/**
 * Fits a head, and says what to expect of it.
 *
 * @param {Float32Array[]} features of the pictures, each (channels)
 * @param {Int32Array} labels from 0
 * @param {number} classes at least 2, each with a picture
 * @param {function(number): Promise<void>} told is given the share that is done, in [0, 1]; may throw to end it
 * @returns {Promise<object>} `weight` Float32Array (classes, channels), `bias` Float32Array, `penalty`, `temperature`,
 *   and of the pictures held out `held`, how many, `right`, `accuracy`, `low` and `high`, null where none was, and
 *   `confusion`, `confusion[true][said]`
 */
export async function teach(features, labels, classes, told = async () => {}) {
  const data = standardised(features, labels, classes);
  const all = Int32Array.from(labels.keys());
  const folds = foldsOf(labels, classes);
  const chosenOn = evenly(all, labels, classes);
  const correlated = correlations(data, chosenOn);
  const steps = PENALTIES.length + FOLDS + 1;
  let done = 0;
  const advance = () => told(++done / steps);
  const held = (places, part) => places.filter((place) => folds[place] === part);
  const kept = (places, part) => places.filter((place) => folds[place] !== part);

  // From strong to weak, until what is held out is said worse than before.
  const parts = [...new Set(folds)].filter((part) => part >= 0);
  const path = []; // of each penalty tried: what makes its fits quick, and where they ended
  let [least, chosen] = [Infinity, 0];
  for (const [at, penalty] of PENALTIES.entries()) {
    const before = path[at - 1];
    const quick = conditioner(data, correlated, penalty, steepness(data, chosenOn, before?.ends[0]));
    path.push({ quick, ends: [] });
    let loss = 0;
    parts.forEach((part, place) => {
      const end = fit(data, kept(chosenOn, part), penalty, quick, CLOSE, before?.ends[place]);
      path[at].ends.push(end);
      const out = held(chosenOn, part);
      loss += lossOf(logitsOfAll(data, end, features, out), out.map((each) => labels[each]), classes);
    });
    await advance();
    if (!parts.length) break;
    if (loss > least * WORSE) break;
    if (loss < least) [least, chosen] = [loss, at];
  }

  const { quick, ends } = path[chosen];
  const logits = new Float64Array(labels.length * classes);
  for (const [place, part] of parts.entries()) {
    const end = fit(data, kept(all, part), PENALTIES[chosen], quick, CLOSE, ends[place]);
    const out = held(all, part);
    const found = logitsOfAll(data, end, features, out);
    out.forEach((each, row) => logits.set(found.subarray(row * classes, (row + 1) * classes), each * classes));
    await advance();
  }
  const whole = plain(data, fit(data, all, PENALTIES[chosen], quick, CLOSER, ends[0]));
  const out = all.filter((place) => folds[place] >= 0);
  const truth = out.map((place) => labels[place]);
  const said = new Float64Array(out.length * classes);
  out.forEach((each, row) => said.set(logits.subarray(each * classes, (each + 1) * classes), row * classes));
  const temperature = truth.length ? fitTemperature(said, truth, classes) : 1;
  await told(1);
  return { ...whole, penalty: PENALTIES[chosen], temperature, ...judged(said, truth, classes) };
}

// At most so many pictures, the same share of each class, evenly over the order in which they came.
function evenly(all, labels, classes) {
  if (all.length <= MOST_FOR_CHOICE) return all;
  const counts = countsOf(labels, classes);
  const seen = new Int32Array(classes);
  const share = MOST_FOR_CHOICE / all.length;
  return all.filter((place) => {
    const label = labels[place];
    const part = Math.min(1, Math.max(share, (2 * FOLDS) / counts[label]));
    const rank = seen[label]++;
    return Math.floor((rank + 1) * part) > Math.floor(rank * part);
  });
}

function logitsOfAll(data, parameters, features, places) {
  const head = plain(data, parameters);
  const logits = new Float64Array(places.length * data.classes);
  places.forEach((place, row) => logitsOf(head, features[place], logits, row * data.classes));
  return logits;
}

// Of all pictures together, without a doubt about their labels.
function lossOf(logits, truth, classes) {
  return truth.length * lossAt(logits, truth, classes, 1, () => 0);
}

function judged(logits, truth, classes) {
  const confusion = Array.from({ length: classes }, () => new Array(classes).fill(0));
  truth.forEach((label, row) => confusion[label][largest(logits, row * classes, classes)]++);
  const right = confusion.reduce((sum, row, label) => sum + row[label], 0);
  if (!truth.length) return { held: 0, right: 0, accuracy: null, low: null, high: null, confusion };
  return { held: truth.length, right, accuracy: right / truth.length, ...wilson(right, truth.length), confusion };
}

function largest(values, from, count) {
  let found = 0;
  for (let each = 1; each < count; each++) if (values[from + each] > values[from + found]) found = each;
  return found;
}

/** Ends of the 95 % interval of a share (Wilson 1927), in [0, 1]. */
export function wilson(right, all) {
  const share = right / all;
  const weight = Z ** 2 / all;
  const middle = (share + weight / 2) / (1 + weight);
  const reach = (Z / (1 + weight)) * Math.sqrt((share * (1 - share)) / all + weight / (4 * all));
  return { low: Math.max(0, Math.min(share, middle - reach)), high: Math.min(1, Math.max(share, middle + reach)) };
}

/**
 * What logits are to be divided by so that scores are true of pictures held out.
 *
 * Targets are a little less than certain (Platt 1999): where every picture is right, the loss alone would want none but
 * certain answers.
 */
export function fitTemperature(logits, truth, classes) {
  let [low, high] = [Math.log(MIN_TEMPERATURE), Math.log(MAX_TEMPERATURE)];
  const golden = (Math.sqrt(5) - 1) / 2;
  const counts = countsOf(truth, classes);
  const at = (place) => lossAt(logits, truth, classes, Math.exp(place), (label) => 1 / (counts[label] + 2));
  let [left, right] = [high - golden * (high - low), low + golden * (high - low)];
  let [atLeft, atRight] = [at(left), at(right)];
  for (let step = 0; step < 40; step++) {
    if (atLeft <= atRight) {
      [high, right, atRight] = [right, left, atLeft];
      left = high - golden * (high - low);
      atLeft = at(left);
    } else {
      [low, left, atLeft] = [left, right, atRight];
      right = low + golden * (high - low);
      atRight = at(right);
    }
  }
  return Math.exp((low + high) / 2);
}

function lossAt(logits, truth, classes, temperature, doubtOf) {
  let loss = 0;
  truth.forEach((label, row) => {
    const from = row * classes;
    const highest = logits[from + largest(logits, from, classes)];
    let [sum, others] = [0, 0];
    for (let each = 0; each < classes; each++) {
      const logit = (logits[from + each] - highest) / temperature;
      sum += Math.exp(logit);
      if (each !== label) others += logit;
    }
    const doubt = doubtOf(label);
    const said = (1 - doubt) * ((logits[from + label] - highest) / temperature) + (doubt * others) / (classes - 1);
    loss += Math.log(sum) - said;
  });
  return loss / truth.length;
}

/** Logits of one picture, into `into` from `at` on. */
export function logitsOf({ weight, bias }, features, into, at = 0) {
  const channels = features.length;
  for (let each = 0; each < bias.length; each++) {
    let sum = bias[each];
    for (let channel = 0; channel < channels; channel++) sum += weight[each * channels + channel] * features[channel];
    into[at + each] = sum;
  }
  return into;
}
