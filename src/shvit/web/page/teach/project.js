// What is being taught: classes and their pictures, in memory what is small, in the browser's database all of it.

import { refuse } from "../runtime.js";
import { cleanName } from "./names.js";
import { Store } from "./store.js";

export const MOST_PICTURES = 20_000;
export const MOST_CLASSES = 500;

export class Project {
  #store;
  #backbone;
  #lastId = 0;
  #digests = new Map(); // of pictures that were files, to the picture
  classes = []; // { id, name, removed }
  pictures = new Map(); // by id, in the order in which they came: { id, classId, name, digest, removed }
  features = new Map(); // by id
  head = null; // what was taught last, with the classes' ids
  revision = 0; // of classes and pictures
  name = "mine";

  /**
   * The project that the browser keeps.
   *
   * @param {string} place that the page is at
   * @param {string} backbone whose features are wanted: those of another are computed anew, and a head on them is none
   */
  static async open(place, backbone) {
    const project = new Project();
    project.#store = await Store.open(place);
    project.#backbone = backbone;
    const [about, classes, pictures, features] = await Promise.all([
      project.#store.get("about", "project"),
      project.#store.all("classes"),
      project.#store.all("pictures"),
      project.#store.all("features"),
    ]);
    if (about) [project.name, project.revision] = [about.name, about.revision];
    const head = await project.#store.get("about", "head");
    if (head?.backbone === backbone) project.head = head;
    const gone = new Set(classes.filter(({ removed }) => removed).map(({ id }) => id));
    const dropped = pictures.filter(({ classId, removed }) => removed || gone.has(classId)).map(({ id }) => id);
    if (gone.size || dropped.length) await project.#forget([...gone], dropped);
    project.classes = classes.filter(({ removed }) => !removed);
    const left = new Set(dropped);
    for (const each of pictures) if (!left.has(each.id)) project.#take(each);
    for (const { id, backbone: of, values } of features) {
      if (of === backbone && project.pictures.has(id)) project.features.set(id, values);
    }
    project.#lastId = Math.max(0, ...classes.map(({ id }) => id), ...pictures.map(({ id }) => id));
    return project;
  }

  /** For good: what was removed in an earlier visit can no longer be asked back. */
  #forget(classes, pictures) {
    return this.#store.change(["classes", "pictures", "images", "features"], (ofClasses, ...others) => {
      for (const id of classes) ofClasses.delete(id);
      for (const id of pictures) for (const store of others) store.delete(id);
    });
  }

  #take(picture) {
    this.pictures.set(picture.id, picture);
    if (picture.digest) this.#digests.set(picture.digest, picture.id);
  }

  #class(id) {
    const found = this.classes.find((each) => each.id === id && !each.removed);
    if (!found) throw refuse("failed", "the class is no longer there");
    return found;
  }

  /** Whether a picture is of the project as it is: neither it nor its class was removed. */
  #counts({ classId, removed }) {
    return !removed && this.classes.some((each) => each.id === classId && !each.removed);
  }

  #about() {
    return { name: this.name, revision: this.revision };
  }

  /** What the page shows. */
  summary() {
    const places = new Map(this.classes.filter(({ removed }) => !removed).map(({ id, name }) => [id, { id, name, pictures: [] }]));
    const missing = [];
    for (const { id, classId, removed } of this.pictures.values()) {
      if (removed || !places.has(classId)) continue;
      places.get(classId).pictures.push(id);
      if (!this.features.has(id)) missing.push(id);
    }
    return { name: this.name, classes: [...places.values()], missing, taught: this.taught() };
  }

  /** What is told of the head, without it. */
  taught() {
    if (!this.head) return null;
    const { weight, bias, revision, ...told } = this.head;
    return { ...told, current: revision === this.revision };
  }

  #checkName(name, except) {
    const clean = cleanName(name);
    if (!clean) throw refuse("failed", "a class needs a name");
    if (this.classes.some((each) => !each.removed && each.id !== except && each.name === clean)) {
      throw refuse("failed", `there is a class “${clean}” already`);
    }
    return clean;
  }

  async addClass(name) {
    const clean = this.#checkName(name);
    if (this.classes.filter(({ removed }) => !removed).length === MOST_CLASSES) {
      throw refuse("failed", `at most ${MOST_CLASSES} classes can be taught in a page; shvit teach takes more`);
    }
    const added = { id: ++this.#lastId, name: clean };
    await this.#put("classes", added);
    this.classes.push(added);
    return added;
  }

  async renameClass(id, name) {
    const found = this.#class(id);
    const renamed = { ...found, name: this.#checkName(name, id) };
    await this.#store.change(["classes"], (classes) => classes.put(renamed));
    found.name = renamed.name;
    const place = this.head?.classIds.indexOf(id) ?? -1;
    if (place >= 0) {
      this.head.labels[place] = renamed.name;
      await this.#store.change(["about"], (about) => about.put(this.head, "head"));
    }
    return renamed;
  }

  async setName(name) {
    this.name = cleanName(name) || "mine";
    await this.#store.change(["about"], (about) => about.put(this.#about(), "project"));
  }

  /** Takes a class away, with its pictures, or gives it back. */
  async setClassRemoved(id, removed) {
    const found = this.classes.find((each) => each.id === id);
    if (!removed) this.#checkName(found.name, id);
    await this.#put("classes", { ...found, removed });
    found.removed = removed;
  }

  /** Takes a picture away, or gives it back. */
  async setPictureRemoved(id, removed) {
    const found = this.pictures.get(id);
    if (!found) throw refuse("failed", "the picture is no longer there");
    await this.#put("pictures", { ...found, removed });
    found.removed = removed;
  }

  async #put(name, value) {
    this.revision++;
    await this.#store.change([name, "about"], (store, about) => {
      store.put(value);
      about.put(this.#about(), "project");
    });
  }

  /**
   * Refuses a picture before work is spent on it.
   *
   * @throws {Error} kind "image": it is there already, or there are too many
   */
  checkRoom(classId, digest) {
    const there = this.pictures.get(this.#digests.get(digest));
    if (there && this.#counts(there)) {
      const { name } = this.#class(there.classId);
      throw refuse("image", there.classId === classId ? "is there already" : `is in “${name}” already`);
    }
    if (this.pictures.size >= MOST_PICTURES) {
      throw refuse("image", `at most ${MOST_PICTURES.toLocaleString("en")} pictures can be taught in a page; shvit teach takes more`);
    }
  }

  /** @returns {Promise<number>} the new picture's id */
  async addPicture(classId, { name, digest, image, values }) {
    this.#class(classId);
    const id = ++this.#lastId;
    const picture = { id, classId, name, digest };
    this.revision++;
    await this.#store.change(["pictures", "images", "features", "about"], (pictures, images, features, about) => {
      pictures.put(picture);
      images.put({ id, image });
      features.put({ id, backbone: this.#backbone, values });
      about.put(this.#about(), "project");
    });
    this.#take(picture);
    this.features.set(id, values);
    return id;
  }

  async setFeatures(id, values) {
    await this.#store.change(["features"], (features) => features.put({ id, backbone: this.#backbone, values }));
    this.features.set(id, values);
  }

  /** @returns {Promise<Blob>} a picture, small, as JPEG */
  async image(id) {
    const found = await this.#store.get("images", id);
    if (!found) throw refuse("failed", "the picture is no longer there");
    return found.image;
  }

  async setHead(head) {
    const whole = { ...head, backbone: this.#backbone, revision: this.revision };
    await this.#store.change(["about"], (about) => about.put(whole, "head"));
    this.head = whole;
  }

  /** Begins anew: everything goes. */
  async clear() {
    await this.#store.change(["about", "classes", "pictures", "images", "features"], (...stores) => {
      for (const store of stores) store.clear();
    });
    [this.classes, this.pictures, this.features, this.#digests] = [[], new Map(), new Map(), new Map()];
    [this.head, this.name] = [null, "mine"];
    this.revision++;
  }
}
