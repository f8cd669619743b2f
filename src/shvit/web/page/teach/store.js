// A project in the browser's database: classes, pictures, their features, and what was taught. One database for each place
// that the page is at, since folders on one host share what a browser keeps.

import { refuse } from "../runtime.js";

const VERSION = 1;

/** The stores: what is one of a kind, by name; classes; of each picture what is known, its JPEG, and its features. */
function prepare(database) {
  database.createObjectStore("about");
  for (const name of ["classes", "pictures", "images", "features"]) database.createObjectStore(name, { keyPath: "id" });
}

function finished(request) {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(told(request.error));
  });
}

function told(error) {
  if (error?.name === "QuotaExceededError") {
    return refuse("storage", "The browser's storage for this page is full. Nothing is lost: save the project as a file, or remove pictures.");
  }
  return refuse("failed", `The browser's storage failed: ${error?.message ?? "no reason given"}`);
}

export class Store {
  #database;

  constructor(database) {
    this.#database = database;
  }

  /** @param {string} place that the page is at */
  static async open(place) {
    let opening;
    try {
      opening = indexedDB.open(`shvit-teach:${place}`, VERSION);
    } catch {
      throw refuse("failed", "This browser keeps nothing for pages: it may be a private window. Teaching needs that.");
    }
    opening.onupgradeneeded = () => prepare(opening.result);
    return new Store(await finished(opening));
  }

  /**
   * Changes that are made together, or not at all.
   *
   * @param {string[]} names of the stores
   * @param {function(...IDBObjectStore): void} change
   */
  change(names, change) {
    return new Promise((done, failed) => {
      const transaction = this.#database.transaction(names, "readwrite", { durability: "relaxed" });
      transaction.oncomplete = () => done();
      transaction.onabort = () => failed(told(transaction.error)); // an error of a request in it ends it so
      try {
        change(...names.map((name) => transaction.objectStore(name)));
      } catch (error) {
        transaction.abort();
        failed(told(error));
      }
    });
  }

  get(name, key) {
    return finished(this.#database.transaction(name).objectStore(name).get(key));
  }

  all(name) {
    return finished(this.#database.transaction(name).objectStore(name).getAll());
  }
}
