// From a graph's output to scores, and from scores to a decision: shvit.tasks and shvit.predicting.outputs decide alike.

const USUAL_THRESHOLD = 0.5; // of several labels, where the card has none

/** Scores in [0, 1] of a graph's first output, a `Float64Array`, by the card's task and temperature. */
export function scoresOf(output, card) {
  if (card.output !== "logits") return output;
  const temperature = card.decision?.temperature ?? 1;
  const logits = temperature === 1 ? output : output.map((each) => each / temperature);
  return card.task === "multi_label" ? logits.map((each) => 1 / (1 + Math.exp(-each))) : softmax(logits);
}

function softmax(logits) {
  const highest = logits.reduce((most, each) => Math.max(most, each), -Infinity);
  const powers = logits.map((each) => Math.exp(each - highest));
  const sum = powers.reduce((total, each) => total + each, 0);
  return powers.map((each) => each / sum);
}

/**
 * The best labels of an image, and what they decide, as `shvit predict --format jsonl` writes them.
 *
 * @param {Float64Array} scores of all classes
 * @param {?number} unknown the unknown score, where the file has one
 * @param {object} card the model's
 * @param {string[]} short what its classes are called
 * @param {number} topK labels wanted; of several labels all that are answers are given
 */
export function decide(scores, unknown, card, short, topK) {
  const accept = acceptance(card);
  const ranked = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b); // of equals the first
  const all = ranked.map((index, place) => {
    const accepted = accept(index, scores[index], place);
    const found = { ...card.classes[index], score: scores[index], short_label: short[index] };
    return accepted === null ? found : { ...found, accepted };
  });
  const answers = card.task === "multi_label" ? all.findLastIndex(({ accepted }) => accepted) + 1 : 0;
  const predictions = all.slice(0, Math.max(topK, answers));
  const limit = card.decision?.unknown?.limit ?? null;
  const known = limit === null || unknown === null ? null : unknown <= limit;
  const decided = predictions.filter(({ accepted }) => accepted !== undefined);
  let decision = null;
  if (known === false) decision = "unknown";
  else if (decided.length) decision = decided.some(({ accepted }) => accepted) ? "answer" : "unsure";
  return {
    predictions,
    ...(decision !== null && { decision }),
    ...(known !== null && { known, unknown_score: unknown }),
  };
}

/** Whether a score is an answer, by class and place; null where nothing says so. */
function acceptance({ task, decision }) {
  const own = new Map((decision?.thresholds ?? []).map(({ class_id, score }) => [class_id, score]));
  const common = decision?.min_score ?? null;
  return (index, score, place) => {
    const least = own.get(index) ?? common;
    if (task === "multi_label") return score >= (least ?? USUAL_THRESHOLD);
    return place || least === null ? null : score >= least;
  };
}

/** What people read first of a result. */
export function headline({ predictions, decision }) {
  const best = predictions[0].short_label;
  if (decision === "unknown") return `unknown (nearest: ${best})`;
  if (decision === "unsure") return `unsure (best: ${best})`;
  const answers = predictions.filter(({ accepted }) => accepted).map(({ short_label }) => short_label);
  return answers.join(", ") || best;
}
