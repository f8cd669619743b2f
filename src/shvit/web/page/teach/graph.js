// What teaching needs of an ONNX file: its pooled features as an output, what they depend on, and another head in the very
// same graph. shvit.engines.onnx_graph reads files alike.
//
// A file is one protobuf message of fields, each with its number, how it is written, and its length where it has one.

import { refuse } from "../runtime.js";
import { Sha256 } from "./sha256.js";

const MODEL = { graph: 7, metadata: 14 };
const METADATA = { key: 1, value: 2 };
const GRAPH = { node: 1, constant: 5, output: 12, value: 13 };
const NODE = { input: 1, output: 2, kind: 4 };
const CONSTANT = { dims: 1, type: 2, name: 8, raw: 9 };
const VALUE = { name: 1, type: 2 };
const TYPE = { tensor: 1 };
const TENSOR = { element: 1, shape: 2 };
const SHAPE = { dim: 1 };
const DIM = { value: 1 };
const [FLOAT, HALF] = [1, 10];
const [VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES] = [0, 1, 2, 5];
const CARD = "shvit.card";
const UNKNOWN = "unknown";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * A message's fields.
 *
 * @param {Uint8Array} bytes
 * @returns {{number: number, value: Uint8Array|number, whole: Uint8Array}[]} `whole` is the field as it is written
 */
export function fieldsOf(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const from = at;
    let key, value;
    [key, at] = varint(bytes, at);
    const written = key % 8;
    if (written === VARINT) {
      [value, at] = varint(bytes, at);
    } else {
      let length = written === EIGHT_BYTES ? 8 : 4;
      if (written === BYTES) [length, at] = varint(bytes, at);
      else if (written !== EIGHT_BYTES && written !== FOUR_BYTES) throw noModel();
      if (length > bytes.length - at) throw noModel();
      value = bytes.subarray(at, at + length);
      at += length;
    }
    found.push({ number: Math.floor(key / 8), value, whole: bytes.subarray(from, at) });
  }
  return found;
}

function noModel() {
  return refuse("model", "the model file is damaged, or is no ONNX file");
}

function varint(bytes, at) {
  let value = 0;
  for (let place = 1, read = 0; read < 10 && at < bytes.length; place *= 128, read++) {
    const byte = bytes[at++];
    value += (byte & 127) * place;
    if (byte < 128) return [value, at];
  }
  throw noModel();
}

function writtenVarint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}

function numberField(number, value) {
  return joined([writtenVarint(number * 8 + VARINT), writtenVarint(value)]);
}

function bytesField(number, value) {
  const bytes = typeof value === "string" ? encoder.encode(value) : value;
  return joined([writtenVarint(number * 8 + BYTES), writtenVarint(bytes.length), bytes]);
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function textsOf(fields, number) {
  return fields.filter((field) => field.number === number).map(({ value }) => decoder.decode(value));
}

/** What belongs to the head of a file: the fields of its graph, the node `head`, and the names of what goes with it. */
function parsed(model) {
  const fields = fieldsOf(model);
  const graph = fields.filter(({ number }) => number === MODEL.graph).flatMap(({ value }) => fieldsOf(value));
  const nodes = graph.filter(({ number }) => number === GRAPH.node).map((field) => {
    const inside = fieldsOf(field.value);
    const [inputs, outputs] = [textsOf(inside, NODE.input), textsOf(inside, NODE.output)];
    return { field, inside, inputs, outputs, kind: textsOf(inside, NODE.kind).at(-1) };
  });
  const head = nodes.find(({ kind, outputs }) => kind === "Gemm" && outputs.length === 1 && outputs[0] === "logits");
  if (!head || head.inputs.length < 2) {
    throw refuse("model", "this model file has no head of shvit's, and nothing can be taught on it");
  }
  const weights = new Set(head.inputs.slice(1));
  for (const { kind, inputs, outputs } of nodes) {
    if (kind === "Cast" && outputs.some((name) => weights.has(name))) inputs.forEach((name) => weights.add(name));
  }
  const names = new Map(nodes.map(({ field, outputs }) => [field, outputs[0] ?? ""]));
  for (const field of graph) {
    if (field.number === GRAPH.constant) names.set(field, textsOf(fieldsOf(field.value), CONSTANT.name)[0] ?? "");
  }
  const goes = (name) => weights.has(name) || name === "logits" || name === UNKNOWN || name.startsWith(`${UNKNOWN}.`);
  return { fields, graph, nodes, head, names, goes };
}

/**
 * What a file says of itself.
 *
 * @param {Uint8Array} model
 * @returns {{card: object, precision: string, features: string, backbone: string}} the card; fp32, fp16 or int8; the name
 *   of the tensor of pooled features; and what is the same of files that have the same features: SHA-256 in hexadecimal,
 *   shvit's `backbone_digest`
 */
export function inspect(model) {
  const { fields, graph, nodes, head, names, goes } = parsed(model);
  const card = fields.filter(({ number }) => number === MODEL.metadata).map(({ value }) => fieldsOf(value))
    .find((entry) => textsOf(entry, METADATA.key)[0] === CARD);
  if (!card) throw refuse("model", "this model file has no card, and its preprocessing is unknown");
  const digest = new Sha256();
  for (const field of graph) if (names.has(field) && !goes(names.get(field))) digest.update(field.value);
  const halved = ({ number, value }) =>
    number === GRAPH.constant && fieldsOf(value).some((each) => each.number === CONSTANT.type && each.value === HALF);
  let precision = graph.some(halved) ? "fp16" : "fp32";
  if (nodes.some(({ kind }) => kind === "DequantizeLinear")) precision = "int8";
  const text = textsOf(card, METADATA.value)[0];
  return { card: JSON.parse(text), precision, features: head.inputs[0], backbone: digest.hex() };
}

/** The file, whose graph returns a `float32` tensor after its own outputs: what is appended is merged into the graph. */
export function withOutput(model, name) {
  const type = bytesField(VALUE.type, bytesField(TYPE.tensor, numberField(TENSOR.element, FLOAT)));
  const output = bytesField(GRAPH.output, joined([bytesField(VALUE.name, name), type]));
  return joined([model, bytesField(MODEL.graph, output)]);
}

/**
 * The file with another head, in float32 whatever the rest is in, without a second output, and with another card.
 *
 * @param {Uint8Array} model
 * @param {{weight: Float32Array, bias: Float32Array}} head (classes, channels) and (classes)
 * @param {object} card
 * @returns {Uint8Array}
 */
export function withHead(model, { weight, bias }, card) {
  const { fields, graph, head, names, goes } = parsed(model);
  const classes = bias.length;
  const channels = weight.length / classes;
  const transposed = head.inside.some(({ number, value }) => number === 5 && isSet(value, "transB"));
  const matrix = transposed ? [weight, [classes, channels]] : [flipped(weight, classes, channels), [channels, classes]];
  const kept = graph.filter((field) => {
    if (names.has(field)) return !goes(names.get(field));
    if (field.number !== GRAPH.output && field.number !== GRAPH.value) return true;
    return !goes(textsOf(fieldsOf(field.value), VALUE.name)[0] ?? "");
  });
  const output = graph.find(({ number, value }) => number === GRAPH.output && textsOf(fieldsOf(value), VALUE.name)[0] === "logits");
  const parts = [
    ...kept.map(({ whole }) => whole),
    bytesField(GRAPH.node, newNode(head)),
    bytesField(GRAPH.constant, constant("head.weight", ...matrix)),
    bytesField(GRAPH.constant, constant("head.bias", bias, [classes])),
    bytesField(GRAPH.output, newOutput(output.value, classes)),
  ];
  const entry = [bytesField(METADATA.key, CARD), bytesField(METADATA.value, JSON.stringify(card))];
  const others = fields.filter(({ number, value }) => {
    if (number === MODEL.metadata) return textsOf(fieldsOf(value), METADATA.key)[0] !== CARD;
    return number !== MODEL.graph;
  });
  return joined([
    ...others.map(({ whole }) => whole),
    bytesField(MODEL.graph, joined(parts)),
    bytesField(MODEL.metadata, joined(entry)),
  ]);
}

// Whether an attribute of a node is that one, and not 0.
function isSet(attribute, name) {
  const inside = fieldsOf(attribute);
  return textsOf(inside, 1)[0] === name && inside.some(({ number, value }) => number === 3 && value !== 0);
}

function flipped(values, rows, columns) {
  return Float32Array.from(values, (_, at) => values[(at % rows) * columns + Math.floor(at / rows)]);
}

// The head's node, which reads the new constants.
function newNode({ inside, inputs }) {
  const read = [inputs[0], "head.weight", "head.bias"].map((name) => bytesField(NODE.input, name));
  return joined([...read, ...inside.filter(({ number }) => number !== NODE.input).map(({ whole }) => whole)]);
}

function constant(name, values, dims) {
  const raw = new Uint8Array(4 * values.length);
  const view = new DataView(raw.buffer);
  values.forEach((value, at) => view.setFloat32(4 * at, value, true));
  return joined([
    ...dims.map((dim) => numberField(CONSTANT.dims, dim)),
    numberField(CONSTANT.type, FLOAT),
    bytesField(CONSTANT.name, name),
    bytesField(CONSTANT.raw, raw),
  ]);
}

// (batch, classes): the first as it was.
function newOutput(output, classes) {
  const inside = (bytes, number) => fieldsOf(bytes).find((field) => field.number === number)?.value ?? new Uint8Array();
  const shape = inside(inside(inside(output, VALUE.type), TYPE.tensor), TENSOR.shape);
  const batch = fieldsOf(shape).find(({ number }) => number === SHAPE.dim)?.whole ?? bytesField(SHAPE.dim, new Uint8Array());
  const dims = [batch, bytesField(SHAPE.dim, numberField(DIM.value, classes))];
  const tensor = [numberField(TENSOR.element, FLOAT), bytesField(TENSOR.shape, joined(dims))];
  const type = bytesField(TYPE.tensor, joined(tensor));
  return joined([bytesField(VALUE.name, "logits"), bytesField(VALUE.type, type)]);
}
