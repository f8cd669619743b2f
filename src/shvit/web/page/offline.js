// After the first visit the page is there without a network.

import { showProblem } from "./words.js";

/** Lets a service worker keep the page for later, and waits until what is loaded next passes through it. */
export async function keepForOffline(isIdle) {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  const hadOne = workers.controller !== null;
  const taken = new Promise((done) => workers.addEventListener("controllerchange", done, { once: true }));
  const registration = await workers.register("sw.js", { updateViaCache: "none" }).catch(() => null);
  if (hadOne) {
    taken.then(() => showProblem("A new version of this page is there.", { retry: () => location.reload(), remedy: "Load it" }));
    return;
  }
  // An active one that does not control the page: the page was loaded past it, by a forced reload.
  if (!registration || (registration.active && !registration.installing)) return;
  await Promise.race([taken, new Promise((done) => setTimeout(done, 5000))]);
  if (workers.controller && !crossOriginIsolated && isIdle() && !sessionStorage.getItem("reloaded")) {
    // Once more, with the headers that the service worker adds and threads need; not in the middle of a visitor's work.
    sessionStorage.setItem("reloaded", "yes");
    location.reload();
    await new Promise(() => {});
  }
}
