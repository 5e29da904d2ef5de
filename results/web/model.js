// The models: packed weights to arrays, and the forward pass, one token at a time with a KV cache.
// What a model is made of is read from the names of its tensors and from its settings, so that one
// function runs all versions.
"use strict";

// ---- Weights ------------------------------------------------------------------------------------

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** How each kind of packed tensor becomes a Float32Array; `take` reads the next numbers. */
const UNPACK = {
  float32: (take, [size]) => take(Float32Array, size),
  // Rows of whole numbers from -127 to 127, each row with its own scale.
  int8: (take, [rows, columns]) => {
    const [scales, whole] = [take(Float32Array, rows), take(Int8Array, rows * columns)];
    const data = new Float32Array(whole.length);
    for (let row = 0, i = 0; row < rows; row++)
      for (const end = i + columns; i < end; i++) data[i] = whole[i] * scales[row];
    return data;
  },
  // Some entries of each row; the others share one value.
  probable: (take, [rows, columns], kept) => {
    const [others, scales] = [take(Float32Array, rows), take(Float32Array, rows)];
    const counts = take(Uint16Array, rows);
    const [places, whole] = [take(Uint16Array, kept), take(Int8Array, kept)];
    const data = new Float32Array(rows * columns);
    for (let row = 0, i = 0; row < rows; row++) {
      data.fill(others[row], row * columns, (row + 1) * columns);
      for (const end = i + counts[row]; i < end; i++)
        data[row * columns + places[i]] = whole[i] * scales[row];
    }
    return data;
  },
  // Some rows; the others are zero.
  rows: (take, [rows, columns], kept) => {
    const places = take(Uint32Array, kept);
    const packed = UNPACK.int8(take, [kept, columns]);
    const data = new Float32Array(rows * columns);
    places.forEach((place, i) =>
      data.set(packed.subarray(i * columns, (i + 1) * columns), place * columns));
    return data;
  },
};

class Model {
  /** From {version, config, tensors: [{name, kind, shape, kept}, ...], data: base64}. */
  constructor(packed) {
    this.version = packed.version;
    this.config = packed.config;
    this.tensors = new Map();
    const bytes = bytesOf(packed.data);
    let at = 0;
    const take = (Numbers, count) => {
      const part = bytes.slice(at, (at += count * Numbers.BYTES_PER_ELEMENT));
      return new Numbers(part.buffer);
    };
    for (const { name, kind, shape, kept } of packed.tensors)
      this.tensors.set(name, { shape, data: UNPACK[kind](take, shape, kept) });
    const ending = ".attention.qkv.weight"; // of block, or of blocks.0, blocks.1, …
    const names = [...this.tensors.keys()].filter((name) => name.endsWith(ending));
    this.blocks = names.map((name) => name.slice(0, -ending.length));
    this.blocks.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }

  /** The array of a tensor, or undefined. */
  get(name) {
    return this.tensors.get(name)?.data;
  }

  /** A row of a matrix. */
  row(name, number) {
    const { data, shape } = this.tensors.get(name);
    return data.slice(number * shape[1], (number + 1) * shape[1]);
  }
}

// ---- Forward pass -------------------------------------------------------------------------------

/** What a model remembers of the tokens that it has read: of each block all keys and values, and
 * the attention weights of each head, [head][position] -> Float32Array of the positions up to it. */
function newState(model) {
  const { n_head = 0 } = model.config;
  const weights = () => Array.from({ length: n_head }, () => []);
  return { ids: [], blocks: model.blocks.map(() => ({ keys: [], values: [], weights: weights() })) };
}

/** Forget what was read after the first `length` tokens. */
function rewind(state, length) {
  state.ids.length = length;
  for (const { keys, values, weights } of state.blocks)
    for (const list of [keys, values, ...weights]) list.length = length;
}

/** Read one more token and return the logits of the next, a Float32Array of as many as there are
 * tokens in the vocabulary. */
function step(model, state, id) {
  const position = state.ids.push(id) - 1;
  if (model.get("table.weight")) return model.row("table.weight", id);
  const x = embedding(model, state.ids, position);
  model.blocks.forEach((name, i) => {
    const cache = state.blocks[i];
    add(x, attention(model, `${name}.attention`, normalized(model, `${name}.norm1`, x), cache));
    add(x, mlp(model, `${name}.mlp`, normalized(model, `${name}.norm2`, x)));
  });
  if (model.config.ngram_at === "head") addNgrams(model, state.ids, position, x);
  return linear(model, "head", normalized(model, "norm", x));
}

/** The residual stream before the first block. */
function embedding(model, ids, position) {
  const x = model.row("token_embedding.weight", ids[position]);
  if (model.config.ngram_at === "input") addNgrams(model, ids, position, x);
  if (model.get("position_embedding.weight")) add(x, model.row("position_embedding.weight", position));
  if (model.config.position === "sinusoidal") add(x, sinusoids(position, x.length));
  return x;
}

function sinusoids(position, C) {
  const half = Math.ceil(C / 2);
  return Float32Array.from({ length: C }, (_, i) => {
    const angle = position * 100 ** ((-2 * (i % half)) / C);
    return 0.05 * (i < half ? Math.sin(angle) : Math.cos(angle));
  });
}

/** Add to x what the tables of hashed n-grams hold for the last two tokens, three, and so on. */
function addNgrams(model, ids, position, x) {
  const gate = model.get("ngrams.gate.weight") ? linear(model, "ngrams.gate", x)[0] : Infinity;
  let hashed = ids[position];
  for (let back = 1; model.get(`ngrams.tables.${back - 1}.weight`); back++) {
    const earlier = position >= back ? ids[position - back] : -1;
    hashed = (hashed * 1000003 + earlier + 1) % 2147483647; // below 2^53: exact
    const name = `ngrams.tables.${back - 1}.weight`;
    const found = model.row(name, hashed % model.tensors.get(name).shape[0]);
    add(x, found.map((value) => value * sigmoid(gate)));
  }
}

/** Multi-head self-attention of the newest position over all positions up to it. */
function attention(model, name, x, cache) {
  const { n_head: H, position, rope_base: base } = model.config;
  const C = x.length;
  const D = C / H; // channels of a head
  const qkv = linear(model, `${name}.qkv`, x);
  const G = (qkv.length - C) / 2 / D; // heads of keys and values; each serves H / G query heads
  const now = cache.keys.length;
  const heads = (start, count) =>
    Array.from({ length: count }, (_, h) => qkv.subarray(start + h * D, start + (h + 1) * D));
  const prepare = (head, norm) => {
    const scaled = model.get(`${norm}.weight`) ? normalized(model, norm, head) : head;
    return position === "rope" ? rotated(scaled, now, base) : scaled;
  };
  cache.keys.push(heads(C, G).map((head) => prepare(head, `${name}.k_norm`)));
  cache.values.push(heads(C + G * D, G));
  const result = new Float32Array(C);
  heads(0, H).forEach((head, h) => {
    const query = prepare(head, `${name}.q_norm`);
    const shared = Math.floor((h * G) / H);
    const slope = position === "alibi" ? 2 ** ((-8 * (h + 1)) / H) : 0;
    const scores = cache.keys.map((keys, at) =>
      dot(query, keys[shared]) / Math.sqrt(D) - slope * (now - at));
    const weights = softmax(scores);
    weights.forEach((weight, at) => {
      const value = cache.values[at][shared];
      for (let i = 0; i < D; i++) result[h * D + i] += weight * value[i];
    });
    cache.weights[h].push(weights);
  });
  return linear(model, `${name}.proj`, result);
}

/** RoPE: each pair of channels, i and i + D/2, turned by its position times its frequency. */
function rotated(x, position, base) {
  const half = x.length / 2;
  return x.map((_, i) => {
    const angle = position * base ** (-(i % half) / half);
    const [first, second] = [x[i % half], x[(i % half) + half]];
    return i < half
      ? first * Math.cos(angle) - second * Math.sin(angle)
      : first * Math.sin(angle) + second * Math.cos(angle);
  });
}

/** The position-wise feed-forward network: SwiGLU where it has a gate, else GELU. */
function mlp(model, name, x) {
  const up = linear(model, `${name}.up`, x);
  if (!model.get(`${name}.gate.weight`)) return linear(model, `${name}.down`, up.map(gelu));
  const gate = linear(model, `${name}.gate`, x);
  return linear(model, `${name}.down`, up.map((value, i) => value * gate[i] * sigmoid(gate[i])));
}

/** LayerNorm where there is a bias, RMSNorm where there is none. */
function normalized(model, name, x) {
  const [weight, bias] = [model.get(`${name}.weight`), model.get(`${name}.bias`)];
  const mean = bias ? x.reduce((sum, value) => sum + value, 0) / x.length : 0;
  const square = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const scale = 1 / Math.sqrt(square + (bias ? 1e-5 : 2 ** -23));
  return x.map((value, i) => (value - mean) * scale * weight[i] + (bias ? bias[i] : 0));
}

// ---- Arithmetic ---------------------------------------------------------------------------------

/** The matrix NAME.weight times x, and NAME.bias where there is one. */
function linear(model, name, x) {
  const { data, shape } = model.tensors.get(`${name}.weight`);
  const bias = model.get(`${name}.bias`);
  const [rows, columns] = shape;
  const result = new Float32Array(rows);
  for (let row = 0, at = 0; row < rows; row++, at += columns) {
    let [a, b, c, d] = [0, 0, 0, 0]; // four sums at a time, so that none waits for the others
    let i = 0;
    for (; i + 3 < columns; i += 4) {
      a += data[at + i] * x[i];
      b += data[at + i + 1] * x[i + 1];
      c += data[at + i + 2] * x[i + 2];
      d += data[at + i + 3] * x[i + 3];
    }
    for (; i < columns; i++) a += data[at + i] * x[i];
    result[row] = a + b + c + d + (bias ? bias[row] : 0);
  }
  return result;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(scores, (score) => Math.exp(score - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

function gelu(x) {
  return (x * (1 + erf(x / Math.SQRT2))) / 2;
}

/** The error function, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = terms.reduce((total, term) => (total + term) * t, 0);
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}
