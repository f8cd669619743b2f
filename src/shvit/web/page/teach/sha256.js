// SHA-256 (FIPS 180-4), part after part. The browser's own wants the whole at once, and a page that came over https.

const FRACTIONS = fractions(64, 3); // of the cube roots of the first primes
const START = fractions(8, 2); // of the square roots

function fractions(count, root) {
  const primes = [];
  for (let each = 2; primes.length < count; each++) if (primes.every((prime) => each % prime)) primes.push(each);
  // To 32 bits, in whole numbers: 64-bit floating point has too few digits for some.
  return Uint32Array.from(primes, (prime) => {
    const target = BigInt(prime) << BigInt(32 * root);
    let low = 0n;
    for (let bit = 1n << 36n; bit; bit >>= 1n) if ((low + bit) ** BigInt(root) <= target) low += bit;
    return Number(low & 0xffffffffn);
  });
}

export class Sha256 {
  #state = Uint32Array.from(START);
  #schedule = new Uint32Array(64);
  #rest = new Uint8Array(64); // what has not filled a block yet
  #filled = 0;
  #length = 0;

  /** @param {Uint8Array} bytes that come next */
  update(bytes) {
    this.#length += bytes.length;
    let at = 0;
    if (this.#filled) {
      at = Math.min(64 - this.#filled, bytes.length);
      this.#rest.set(bytes.subarray(0, at), this.#filled);
      this.#filled += at;
      if (this.#filled < 64) return;
      this.#block(this.#rest, 0);
      this.#filled = 0;
    }
    for (; at + 64 <= bytes.length; at += 64) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
    this.#filled = bytes.length - at;
  }

  /** What all of it comes to, in hexadecimal; nothing may follow. */
  hex() {
    const length = this.#length;
    const end = new Uint8Array(((119 - (length % 64)) % 64) + 9);
    end[0] = 128;
    const view = new DataView(end.buffer);
    view.setUint32(end.length - 8, Math.floor(length / 2 ** 29));
    view.setUint32(end.length - 4, (length << 3) >>> 0);
    this.update(end);
    return Array.from(this.#state, (word) => word.toString(16).padStart(8, "0")).join("");
  }

  #block(bytes, from) {
    const words = this.#schedule;
    for (let each = 0, at = from; each < 16; each++, at += 4) {
      words[each] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    }
    for (let each = 16; each < 64; each++) {
      const [early, late] = [words[each - 15], words[each - 2]];
      const one = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
      const other = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
      words[each] = (words[each - 16] + one + words[each - 7] + other) | 0;
    }
    const state = this.#state;
    let [a, b, c, d, e, f, g, h] = state;
    for (let each = 0; each < 64; each++) {
      const mixed = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
      const first = (h + mixed + ((e & f) ^ (~e & g)) + FRACTIONS[each] + words[each]) | 0;
      const second = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + first) | 0;
      d = c;
      c = b;
      b = a;
      a = (first + second) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, place) => (state[place] += value));
  }
}

function turned(word, by) {
  return (word >>> by) | (word << (32 - by));
}
