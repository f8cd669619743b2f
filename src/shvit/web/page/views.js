// Which of the page's two views is shown, by its address: "Try", or "Teach", whose parts are loaded when it is first opened.

import { part, showProblem } from "./words.js";

const TEACH = ["#teach", "#classes"];

let teaching = null; // the module, once it was loaded
let chosen = null; // the predictor and the model that are there

const isTeach = () => TEACH.includes(location.hash);

/** @param {function(): void} left called when "Try" is left */
export function followViews(left) {
  const show = () => {
    const teach = isTeach();
    part("teach").hidden = !teach;
    part("input").hidden = part("results").hidden = teach;
    part("where").hidden = teach; // where "Try" has its answers from
    part("skip").href = teach ? "#classes" : "#results";
    for (const [id, on] of [["to-try", !teach], ["to-teach", teach]]) {
      if (on) part(id).setAttribute("aria-current", "page");
      else part(id).removeAttribute("aria-current");
    }
    if (teach) left();
    else teaching?.closeTeach();
    open();
  };
  addEventListener("hashchange", show);
  show();
}

/** Says that a model is there, for whichever view. */
export function modelIsThere(predictor, model) {
  chosen = { predictor, model };
  open();
}

async function open() {
  if (!chosen || !isTeach()) return;
  try {
    teaching ??= await import("./teach/page.js");
  } catch {
    showProblem("Teaching cannot be loaded. Is the connection up?", { retry: open });
    return;
  }
  if (isTeach()) await teaching.openTeach(chosen.predictor, chosen.model);
}
