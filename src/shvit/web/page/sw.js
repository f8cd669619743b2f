// Offline after the first visit: what the page once loaded stays, until another version is put in its place.
//
// Answers carry the headers that a page needs for threads, which hosts of static files seldom send.

importScripts("version.js"); // self.VERSION, of all that the folder holds, and self.SHELL, what every visit needs

const PREFIX = `shvit:${self.registration.scope}:`;
const CACHE = PREFIX + self.VERSION;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  const fresh = self.SHELL.map((path) => new Request(path, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
});

self.addEventListener("activate", (event) => {
  const clean = async () => {
    const names = await caches.keys();
    const old = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return isolating(kept);
  // Not the browser's own cache, which may hold a file of the version before.
  const response = await fetch(request.mode === "navigate" ? request : new Request(request, { cache: "no-cache" }));
  if (response.status === 200) await cache.put(bare(request), response.clone());
  return isolating(response);
}

// Without the query, which changes nothing in a folder of files.
function bare(request) {
  const url = new URL(request.url);
  return url.origin + url.pathname;
}

function isolating(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
