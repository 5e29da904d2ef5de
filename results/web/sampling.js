// From logits to a token: what temperature, top-k and top-p leave, and the draw.
"use strict";

/** The probabilities that a token is sampled from, as `sample_next_token` in the scripts has them.
 * knobs: {temperature, topK, topP}; a temperature of 0 is greedy, topK 0 and topP 1 are off. */
function distribution(logits, { temperature, topK, topP }) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
  const only = (kept) => Float64Array.from(logits, (_, i) => kept(i));
  if (temperature === 0) return only((i) => (i === order[0] ? 1 : 0));
  const lowest = topK ? logits[order[Math.min(topK, order.length) - 1]] : -Infinity;
  let probabilities = softmax(
    Array.from(logits, (logit) => (logit < lowest ? -Infinity : logit / temperature)));
  if (topP < 1) {
    let before = 0; // the sum over all more likely tokens
    const kept = new Set();
    for (const id of order) {
      if (kept.size && before >= topP) break;
      kept.add(id);
      before += probabilities[id];
    }
    probabilities = only((i) => (kept.has(i) ? probabilities[i] : 0));
  }
  const total = probabilities.reduce((a, b) => a + b, 0);
  return probabilities.map((p) => p / total);
}

/** A generator of random numbers from 0 to 1 that a seed decides (mulberry32). */
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One of the ids, each as often as its probability says. */
function pick(probabilities, random) {
  let left = random();
  for (let id = 0; id < probabilities.length; id++) {
    left -= probabilities[id];
    if (left < 0) return id;
  }
  return probabilities.lastIndexOf(Math.max(...probabilities)); // rounding left a crumb
}

/** The ids with the largest probabilities, the largest first. */
function mostLikely(probabilities, count) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  return order.slice(0, count);
}
