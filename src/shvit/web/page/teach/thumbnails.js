// A class's pictures, small. Only those in sight are in the page, and they are decoded, by the worker, when they come into it.

const CELL = 62; // pixels of a picture with the gap after it, as style.css has them
const HIGHEST = 130; // pixels of the box, as there too: to ask the page for sizes makes it lay itself out
const AROUND = 1; // rows above and below that are ready to be scrolled to
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

export class Thumbnails {
  #box;
  #inside = document.createElement("div");
  #ids = [];
  #count = 0; // of them, when they were shown last: the list itself may have grown
  #cells = new Map(); // in the page, by id
  #image;
  #remove;
  #named;
  #at = 0; // the picture that the arrow keys are at
  #width = 0; // of the box, in pixels
  #top = 0; // how far it is scrolled
  #drawing = false;
  #toEnd = false; // where pictures were added, the last are shown

  /**
   * @param {HTMLElement} box that scrolls
   * @param {object} uses `image(id)` gives a promise of its bitmap, `remove(id)` takes it away, `named(place)` is what it is called
   */
  constructor(box, { image, remove, named }) {
    [this.#box, this.#image, this.#remove, this.#named] = [box, image, remove, named];
    box.replaceChildren(this.#inside);
    box.onscroll = () => {
      this.#top = box.scrollTop;
      this.#plan();
    };
    box.onkeydown = (event) => this.#key(event);
    const resized = ([{ contentRect }]) => {
      if (contentRect.width === this.#width) return;
      this.#width = contentRect.width;
      this.#plan();
    };
    new ResizeObserver(resized).observe(box);
  }

  /** @param {number[]} ids of all pictures, which may be the same list, longer or shorter */
  show(ids) {
    const longer = ids.length > this.#count;
    [this.#ids, this.#count] = [ids, ids.length];
    this.#box.hidden = !ids.length;
    this.#at = Math.min(this.#at, Math.max(0, ids.length - 1));
    this.#plan(longer);
  }

  /** Once a frame, however often it is asked for. */
  #plan(toEnd = false) {
    this.#toEnd ||= toEnd;
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  get #columns() {
    return Math.max(1, Math.floor(this.#width / CELL));
  }

  #draw() {
    const columns = this.#columns;
    const rows = Math.ceil(this.#ids.length / columns);
    this.#inside.style.height = `${rows * CELL}px`;
    const lowest = Math.max(0, rows * CELL - HIGHEST);
    const focused = this.#inside.contains(document.activeElement);
    if (this.#toEnd && !focused && this.#top !== lowest) this.#box.scrollTop = this.#top = lowest;
    this.#toEnd = false;
    this.#top = Math.min(this.#top, lowest);
    const first = Math.max(0, Math.floor(this.#top / CELL) - AROUND) * columns;
    const last = (Math.ceil((this.#top + HIGHEST) / CELL) + AROUND) * columns;
    const wanted = this.#ids.slice(first, last);
    const kept = new Set(wanted);
    this.#at = Math.min(Math.max(this.#at, first), first + wanted.length - 1); // the Tab key leads to one in sight
    for (const [id, cell] of this.#cells) if (!kept.has(id)) this.#drop(id, cell);
    wanted.forEach((id, more) => {
      const place = first + more;
      const cell = this.#cells.get(id) ?? this.#make(id);
      cell.ariaLabel = `Remove ${this.#named(place)}`;
      cell.onfocus = () => (this.#at = place);
      cell.tabIndex = place === this.#at ? 0 : -1;
      cell.style.transform = `translate(${(place % columns) * CELL}px, ${Math.floor(place / columns) * CELL}px)`;
      if (this.#inside.children[more] !== cell) this.#inside.insertBefore(cell, this.#inside.children[more] ?? null);
    });
    if (focused && !this.#inside.contains(document.activeElement)) this.#cells.get(this.#ids[this.#at])?.focus();
  }

  #make(id) {
    const cell = document.createElement("button");
    cell.type = "button";
    const canvas = document.createElement("canvas");
    canvas.ariaHidden = "true";
    cell.append(canvas);
    cell.onclick = () => this.#remove(id);
    this.#cells.set(id, cell);
    this.#image(id).then((bitmap) => {
      if (this.#cells.get(id) !== cell) return bitmap.close(); // scrolled away meanwhile
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      return canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    }, () => cell.classList.add("failed"));
    return cell;
  }

  #drop(id, cell) {
    cell.remove();
    this.#cells.delete(id);
  }

  #key(event) {
    const step = STEPS[event.key] ?? { ArrowDown: this.#columns, ArrowUp: -this.#columns }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      return this.#remove(this.#ids[this.#at]);
    }
    if (step === undefined) return undefined;
    event.preventDefault();
    return this.#go(Math.min(this.#ids.length - 1, Math.max(0, this.#at + step)));
  }

  #go(place) {
    this.#at = place;
    const top = Math.floor(place / this.#columns) * CELL;
    this.#box.scrollTop = this.#top = Math.min(top, Math.max(this.#top, top + CELL - HIGHEST));
    this.#draw();
    this.#cells.get(this.#ids[place])?.focus();
  }
}
