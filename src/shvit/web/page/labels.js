// What classes are called on the page: shvit.card.short_labels decides alike.

/**
 * The first synonym of a class with a WordNet id, `jinrikisha` of `jinrikisha, ricksha, rickshaw`. In another label a
 * comma belongs to the name. Two classes that would be called the same keep their whole labels.
 *
 * @param {{label: string, wnid: ?string}[]} classes all of a model's, in its order
 * @returns {string[]} in the same order
 */
export function shortLabels(classes) {
  const first = classes.map(firstSynonym);
  const times = new Map();
  for (const name of first) times.set(name, (times.get(name) ?? 0) + 1);
  return classes.map(({ label }, place) => (times.get(first[place]) > 1 ? label : first[place]));
}

function firstSynonym({ label, wnid }) {
  if (!/^n[0-9]{8}$/.test(wnid ?? "")) return label;
  return label.split(",")[0].replace(/^ +| +$/g, "") || label;
}
