// What the page says, and where.

/** The element of an id. */
export const part = (id) => document.getElementById(id);

export const percent = (score) => `${(100 * score).toFixed(score < 0.0995 ? 1 : 0)} %`;

/** To a screen reader. */
export function say(text) {
  part("spoken").textContent = text;
}

export function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

export function showProblem(message, { retry, token, remedy = "Try again" } = {}) {
  part("problem").querySelector("p").textContent = message;
  part("token-form").hidden = !token;
  part("retry").hidden = !retry;
  part("retry").textContent = remedy;
  part("retry").onclick = () => (hideProblem(), retry());
  part("problem").hidden = false;
}

export function hideProblem() {
  part("problem").hidden = true;
}

/** Tells of an error of the predictors'. */
export function explainProblem(error, name, retry) {
  if (error.kind === "token") return showProblem(error.message, { token: true });
  const message = error.kind === "image" && name ? `${name}: ${withoutName(error.message, name)}` : error.message;
  showProblem(message, { retry: error.kind === "gone" || error.kind === "busy" ? retry : undefined });
}

// A server names an upload as it knows it ("<1234 bytes>: ..."); the page knows better.
function withoutName(message, name) {
  return message.replace(/^<[^>]*>: /, "").replace(`${name}: `, "");
}
