// Labels with their scores, one below the other.

import { percent } from "./words.js";

/** Shows predictions in a list, best first; its rows are used again, so that bars move. */
export function showBars(list, predictions) {
  while (list.children.length < predictions.length) list.append(labelRow());
  while (list.children.length > predictions.length) list.lastChild.remove();
  predictions.forEach(({ label, short_label, score }, place) => {
    const [name, share, bar] = list.children[place].children;
    name.textContent = short_label;
    name.title = label;
    share.textContent = percent(score);
    share.value = String(score);
    bar.firstChild.style.transform = `scaleX(${score})`;
  });
}

function labelRow() {
  const row = document.createElement("li");
  for (const [kind, tag] of [["name", "span"], ["share", "data"], ["bar", "span"]]) {
    const cell = document.createElement(tag);
    cell.className = kind;
    row.append(cell);
  }
  row.lastChild.setAttribute("aria-hidden", "true");
  row.lastChild.append(document.createElement("i"));
  return row;
}
