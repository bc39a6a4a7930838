/** The odds of the next token, worked out in the page from the whole vocabulary's logits. */

export interface Filtered {
  /** Probability of each token at the temperature, nothing cut. */
  plain: Float64Array;
  /** The same after top-k and top-p, summing to 1 over what is left. */
  kept: Float64Array;
  /** How many tokens are left, and the share of probability that the others had. */
  count: number;
  cut: number;
  /** Nats, of `plain` and of `kept`. */
  entropy: number;
  keptEntropy: number;
}

const IDS = 2 ** 21;

/**
 * Indices of the logits, largest first; ties by the smaller id. Each logit becomes a whole number in the same order, with
 * its id below it, and numbers are sorted natively: with a function to compare by it takes ten times as long.
 */
export function ranked(logits: Float32Array): Uint32Array {
  const bits = new Int32Array(logits.buffer, logits.byteOffset, logits.length);
  const keys = new Float64Array(logits.length);
  for (let i = 0; i < keys.length; i++) {
    const rising = logits[i] === 0 ? 0 : bits[i] < 0 ? -(bits[i] & 0x7fffffff) : bits[i];
    keys[i] = (0x80000000 - rising) * IDS + i;
  }
  keys.sort();
  const order = new Uint32Array(keys.length);
  for (let i = 0; i < keys.length; i++) order[i] = keys[i] % IDS;
  return order;
}

/** Softmax at a temperature; 0 gives all to the likeliest. */
export function softmax(logits: Float32Array, order: Uint32Array, temperature: number): Float64Array {
  const out = new Float64Array(logits.length);
  if (temperature <= 0) {
    out[order[0]] = 1;
    return out;
  }
  const top = logits[order[0]];
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += out[i] = Math.exp((logits[i] - top) / temperature);
  for (let i = 0; i < logits.length; i++) out[i] /= total;
  return out;
}

/** Temperature first, then the k likeliest, then the fewest that together reach p: the order of the sampler. */
export function filtered(
  logits: Float32Array,
  order: Uint32Array,
  temperature: number,
  topK: number | null,
  topP: number | null,
): Filtered {
  const plain = softmax(logits, order, temperature);
  let count = topK === null ? plain.length : Math.min(Math.max(1, topK), plain.length);
  let within = 0;
  for (let i = 0; i < count; i++) within += plain[order[i]];
  if (topP !== null && topP < 1) {
    let sum = 0;
    let needed = 0;
    while (needed < count && sum / within < topP) sum += plain[order[needed++]];
    count = Math.max(1, needed);
  }
  let mass = 0;
  for (let i = 0; i < count; i++) mass += plain[order[i]];
  let cut = 0;
  for (let i = count; i < order.length; i++) cut += plain[order[i]];
  const kept = new Float64Array(plain.length);
  for (let i = 0; i < count; i++) kept[order[i]] = plain[order[i]] / mass;
  return { plain, kept, count, cut, entropy: entropy(plain), keptEntropy: entropy(kept) };
}

export function entropy(p: Float64Array): number {
  let sum = 0;
  for (const x of p) if (x > 0) sum -= x * Math.log(x);
  return sum;
}

export function bytes(base64: string): Uint8Array<ArrayBuffer> {
  const native = Uint8Array as typeof Uint8Array & { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> };
  if (native.fromBase64) return native.fromBase64(base64);
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

const LITTLE = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** Little-endian float32, whatever the machine. */
export function floats(base64: string): Float32Array {
  const raw = bytes(base64);
  if (LITTLE) return new Float32Array(raw.buffer);
  const view = new DataView(raw.buffer);
  return Float32Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
