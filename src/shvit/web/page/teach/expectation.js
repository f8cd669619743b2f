// What to expect of a head, in words.

import { percent } from "../words.js";
import { counted } from "./classes.js";

const MOST_NAMED = 3;

/** Of what `Project.taught` tells. */
export function expectation(taught) {
  const changedSince = taught.current ? "" : " Pictures or classes have changed since: teach again.";
  if (taught.accuracy === null) return `Taught. One picture of a class is not enough to say how good it is.${changedSince}`;
  return `${howMany(taught)}${confused(taught)} Other places and light may be harder.${changedSince}`;
}

function howMany({ accuracy, low, high, held }) {
  const ten = Math.round(10 * accuracy);
  const about = ten < 10 ? `about ${ten} of 10` : accuracy < 1 ? "nearly all" : "all";
  const range = `${percent(accuracy)}, between ${percent(low)} and ${percent(high)}`;
  return `Of pictures like these, ${about} right (${range}, on ${counted(held)} held out in turn).`;
}

/** Which classes were taken for which, the most frequent first. */
function confused({ confusion, labels }) {
  const found = confusion.flatMap((row, shown) =>
    row.map((times, named) => ({ shown, named, times })).filter(({ named, times }) => named !== shown && times),
  );
  if (!found.length) return "";
  found.sort((one, other) => other.times - one.times);
  const named = found.slice(0, MOST_NAMED).map(({ shown, named, times }) => `${labels[shown]} for ${labels[named]} (${times})`);
  return ` Taken for another: ${named.join(", ")}${found.length > MOST_NAMED ? ", …" : "."}`;
}
