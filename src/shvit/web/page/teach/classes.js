// The list of classes: each with its name, its count, its pictures, and how to give it more.

import { part } from "../words.js";
import { Thumbnails } from "./thumbnails.js";

export const counted = (count) => `${count.toLocaleString("en")} ${count === 1 ? "picture" : "pictures"}`;

export class ClassList {
  #cards = new Map(); // by the class's id: { item, thumbnails, shown }
  #list = part("class-list");
  #uses;

  /**
   * @param {object} uses what the cards call, each given the class's id first: `rename(id, name)`, `remove(id)`,
   *   `choose(id)`, `hold(id)`, `release()`; `image(id)` and `removePicture(id)` are given a picture's
   */
  constructor(uses) {
    this.#uses = uses;
  }

  /** @param {{id: number, name: string, pictures: number[]}[]} classes all of them, in order */
  show(classes) {
    const there = new Set(classes.map(({ id }) => id));
    for (const [id, { item }] of this.#cards) {
      if (there.has(id)) continue;
      item.remove();
      this.#cards.delete(id);
    }
    classes.forEach((each, place) => {
      const card = this.#cards.get(each.id) ?? this.#make(each);
      if (this.#list.children[place] !== card.item) this.#list.insertBefore(card.item, this.#list.children[place] ?? null);
      this.update(each);
    });
  }

  /** Shows what has changed of one class. */
  update({ id, name, pictures }) {
    const { item, thumbnails } = this.#cards.get(id);
    const input = item.querySelector(".class-name");
    if (document.activeElement !== input) input.value = name;
    item.querySelector(".count").textContent = counted(pictures.length);
    for (const [selector, words] of [[".remove", "Remove class"], [".hold", "Take pictures of"], [".pictures", "Choose pictures of"]]) {
      item.querySelector(selector).ariaLabel = `${words} ${name}`;
    }
    item.querySelector(".thumbs").ariaLabel = `Pictures of ${name}`;
    thumbnails.show(pictures);
  }

  #make(each) {
    const item = part("class-card").content.firstElementChild.cloneNode(true);
    const uses = this.#uses;
    const { id } = each;
    const thumbnails = new Thumbnails(item.querySelector(".thumbs"), {
      image: uses.image,
      remove: uses.removePicture,
      named: (place) => `picture ${place + 1} of ${item.querySelector(".class-name").value}`,
    });
    item.dataset.classId = id;
    item.querySelector(".class-name").onchange = ({ target }) => uses.rename(id, target.value);
    item.querySelector(".remove").onclick = () => uses.remove(id);
    item.querySelector(".pictures").onclick = () => uses.choose(id);
    this.#followHold(item.querySelector(".hold"), id);
    const card = { item, thumbnails };
    this.#cards.set(id, card);
    return card;
  }

  // Pressed with a finger, a mouse, or the space bar, as long as it is.
  #followHold(button, id) {
    const { hold, release } = this.#uses;
    const begin = (event) => {
      event.preventDefault();
      button.classList.add("held");
      hold(id);
    };
    const end = () => {
      button.classList.remove("held");
      release();
    };
    button.onpointerdown = (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      button.focus();
      begin(event);
    };
    button.onkeydown = (event) => {
      if ((event.key === " " || event.key === "Enter") && !event.repeat) begin(event);
      else if (event.repeat) event.preventDefault();
    };
    button.oncontextmenu = (event) => event.preventDefault(); // a finger that is held
    for (const each of ["pointerup", "pointercancel", "lostpointercapture", "keyup", "blur"]) button.addEventListener(each, end);
  }
}
