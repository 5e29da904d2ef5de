// Byte-pair encoding: text to ids and back, as bpe_tokenizer.py does it.
"use strict";

const ENCODER = new TextEncoder();
const PAIRS = 2 ** 20; // more than any vocabulary has ids: first * PAIRS + second is a pair's key

class Tokenizer {
  /** From {pattern, merges: [first, second, first, second, ...], special: {spelling: id}}. */
  constructor(vocabulary) {
    this.pattern = new RegExp(vocabulary.pattern, "gu");
    this.ranks = new Map();
    this.bytes = Array.from({ length: 256 }, (_, i) => [i]); // of each id
    for (let i = 0; i < vocabulary.merges.length; i += 2) {
      const [a, b] = [vocabulary.merges[i], vocabulary.merges[i + 1]];
      this.ranks.set(a * PAIRS + b, i / 2);
      this.bytes.push([...this.bytes[a], ...this.bytes[b]]);
    }
    for (const [spelling, id] of Object.entries(vocabulary.special))
      this.bytes[id] = [...ENCODER.encode(spelling)];
    this.special = new Set(Object.values(vocabulary.special));
    this.endOfText = vocabulary.special["<|endoftext|>"] ?? null;
  }

  /** Pre-tokenization: the chunks of a text. What the pattern does not match is a chunk too. */
  split(text) {
    const chunks = [];
    let end = 0;
    for (const match of text.matchAll(this.pattern)) {
      chunks.push(text.slice(end, match.index), match[0]);
      end = match.index + match[0].length;
    }
    return [...chunks, text.slice(end)].filter((chunk) => chunk);
  }

  /** The ids of a text. The spelling of a special token is ordinary text. */
  encode(text) {
    return this.split(text).flatMap((chunk) => this.merge([...ENCODER.encode(chunk)]));
  }

  /** The ids of a chunk's bytes: its pairs merged in the order in which they were learned. */
  merge(ids) {
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++)
        best = Math.min(best, this.ranks.get(ids[i] * PAIRS + ids[i + 1]) ?? Infinity);
      if (best === Infinity) return ids;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const here = i + 1 < ids.length && this.ranks.get(ids[i] * PAIRS + ids[i + 1]) === best;
        merged.push(here ? 256 + best : ids[i]);
        if (here) i++;
      }
      ids = merged;
    }
  }

  /** The text of some ids. Bytes that are no UTF-8 become U+FFFD. */
  decode(ids) {
    return new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => this.bytes[id])));
  }

  /** A token by itself: bytes that are only a part of a character in hexadecimal. */
  text(id) {
    const text = this.decode([id]);
    if (!text.includes("\ufffd")) return text;
    return `<${this.bytes[id].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}>`;
  }

  /** A token with its spaces and line breaks as signs. */
  label(id) {
    return this.text(id).replace(/\n/g, "↵").replace(/ /g, "␣");
  }
}
