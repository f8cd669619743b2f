// ZIP archives of small files: written without compression, which JPEGs do not need, and read with bounds.

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const UTF8 = 0x0800; // names are
const MOST_FILES = 65_534; // that a directory without the 64-bit extension holds
const MOST_BYTES = 2 ** 32 - 2;
const [STORED, DEFLATED] = [0, 8];

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** CRC-32 of bytes. */
export function checksum(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CHECKSUMS[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** An archive that is written file after file; what it holds stays with the browser, in blobs. */
export class ZipWriter {
  #parts = [];
  #directory = [];
  #size = 0;

  /** @param {string} name with slashes between folders */
  add(name, bytes) {
    const path = encoder.encode(name);
    const header = new DataView(new ArrayBuffer(26));
    [20, UTF8, STORED, 0, 0x21].forEach((value, place) => header.setUint16(2 * place, value, true)); // of 1980-01-01
    [checksum(bytes), bytes.length, bytes.length].forEach((value, place) => header.setUint32(10 + 4 * place, value, true));
    header.setUint16(22, path.length, true);
    if (this.#directory.length === MOST_FILES || this.#size + bytes.length + path.length + 30 > MOST_BYTES) {
      throw new RangeError("more than an archive holds");
    }
    const about = new Uint8Array(header.buffer);
    this.#directory.push({ path, about, at: this.#size });
    this.#append(new Blob([signature(LOCAL), about, path, bytes]));
  }

  #append(blob) {
    this.#parts.push(blob);
    this.#size += blob.size;
  }

  /** @returns {Blob} the archive */
  finish() {
    const at = this.#size;
    for (const { path, about, at: from } of this.#directory) {
      const more = new DataView(new ArrayBuffer(14)); // no comment, the first disk, no attributes
      more.setUint32(10, from, true);
      this.#append(new Blob([signature(CENTRAL), Uint8Array.of(20, 0), about, new Uint8Array(more.buffer), path]));
    }
    const end = new DataView(new ArrayBuffer(18));
    for (const place of [4, 6]) end.setUint16(place, this.#directory.length, true);
    end.setUint32(8, this.#size - at, true);
    end.setUint32(12, at, true);
    return new Blob([...this.#parts, signature(END), new Uint8Array(end.buffer)], { type: "application/zip" });
  }
}

function signature(value) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, true);
  return new Uint8Array(view.buffer);
}

async function view(blob, from, length) {
  return new DataView(await blob.slice(from, from + length).arrayBuffer());
}

/**
 * The files of an archive that anybody may have made. None is unpacked yet.
 *
 * @param {Blob} archive
 * @param {number} most files that are accepted
 * @returns {Promise<{name: string, size: number, read: function(number): Promise<Uint8Array>}[]>} `read` is given the most
 *   bytes that are accepted of it
 * @throws {RangeError} it is no archive, or has more files
 */
export async function readZip(archive, most) {
  const tail = Math.min(archive.size, 22 + 65_535); // a comment may follow
  const end = await view(archive, archive.size - tail, tail);
  let at = tail - 22;
  while (at >= 0 && end.getUint32(at, true) !== END) at--;
  if (at < 0) throw new RangeError("it is no ZIP archive");
  const count = end.getUint16(at + 10, true);
  if (count > most) throw new RangeError(`it has ${count.toLocaleString("en")} files, at most ${most.toLocaleString("en")} are accepted`);
  const [size, from] = [end.getUint32(at + 12, true), end.getUint32(at + 16, true)];
  if (from + size > archive.size) throw new RangeError("it ends too early");
  const directory = await view(archive, from, size);
  const files = [];
  for (let place = 0; files.length < count; ) {
    if (place + 46 > size || directory.getUint32(place, true) !== CENTRAL) throw new RangeError("its directory is damaged");
    const lengths = [28, 30, 32].map((each) => directory.getUint16(place + each, true));
    const name = decoder.decode(new Uint8Array(directory.buffer, place + 46, Math.min(lengths[0], size - place - 46)));
    const entry = {
      method: directory.getUint16(place + 10, true),
      sum: directory.getUint32(place + 16, true),
      packed: directory.getUint32(place + 20, true),
      size: directory.getUint32(place + 24, true),
      at: directory.getUint32(place + 42, true),
    };
    files.push({ name, size: entry.size, read: (bytes) => unpack(archive, name, entry, bytes) });
    place += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return files;
}

async function unpack(archive, name, { method, sum, packed, size, at }, most) {
  if (size > most) throw new RangeError(`${name}: ${size.toLocaleString("en")} bytes, at most ${most.toLocaleString("en")} are accepted`);
  const header = await view(archive, at, 30);
  if (header.byteLength < 30 || header.getUint32(0, true) !== LOCAL) throw new RangeError(`${name}: is damaged`);
  const from = at + 30 + header.getUint16(26, true) + header.getUint16(28, true);
  const content = archive.slice(from, from + packed);
  if (method !== STORED && method !== DEFLATED) throw new RangeError(`${name}: is packed in a way that is not known`);
  const stream = method === STORED ? content.stream() : content.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(size);
  let read = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) break;
    if (read + value.length > size) {
      await reader.cancel(); // it says less than it unpacks to
      throw new RangeError(`${name}: is damaged`);
    }
    bytes.set(value, read);
    read += value.length;
  }
  if (read !== size || checksum(bytes) !== sum) throw new RangeError(`${name}: is damaged`);
  return bytes;
}
