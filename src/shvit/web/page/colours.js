// Light or dark: as the visitor's system has it, until the button says otherwise.

import { part } from "./words.js";

export function followColours() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const tell = () => part("theme").setAttribute("aria-pressed", String(chosen() === "dark"));
  part("theme").onclick = () => {
    const next = chosen() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
    tell();
  };
  dark.addEventListener("change", tell);
  tell();
}
