// What a reader plays with: two versions side by side on one text, their tokens, what each expects
// next, and what each head of attention looks at.
"use strict";

const SHOWN = 8; // of the most likely next tokens
const LONGEST = 120; // tokens that "Write" adds
const percent = (p) => (p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- One side -----------------------------------------------------------------------------------

/** One of the two sides: a version, the tokens that it has read and written, and how they look. */
class Pane {
  constructor(root, play) {
    this.root = root;
    this.play = play;
    const part = (selector) => root.querySelector(selector);
    [this.select, this.facts, this.box] = ["select", ".facts", ".tokens"].map(part);
    [this.next, this.says, this.heads] = [".next", ".says", ".heads"].map(part);
    this.select.addEventListener("change", () => {
      this.play.stop();
      this.open(this.select.value);
      this.play.announce();
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("click", (event) => this.point(event, true));
    this.box.addEventListener("pointerover", (event) => this.point(event, false));
    this.box.addEventListener("pointerleave", () => this.show(this.chosen));
    for (const kind of ["pointerover", "pointerout", "change"])
      this.heads.addEventListener(kind, (event) => {
        const label = kind === "pointerover" && event.target.closest("label");
        this.show(this.chosen, label ? label.control.value : this.head);
      });
  }

  /** Take a version, and read the prompt. */
  open(version) {
    this.select.value = version;
    this.model = this.play.model(version);
    this.tokenizer = this.play.tokenizer(version);
    const { n_head: heads = 0, context_length: length } = this.model.config;
    this.root.style.setProperty("--own", this.play.colour(version));
    const numbers = [...this.model.tensors.values()].reduce((sum, each) => sum + each.data.length, 0);
    this.facts.textContent = `${numbers.toLocaleString("en")} parameters, ${length} tokens of context`;
    const radio = (value, textContent, ariaLabel) => {
      const name = `${this.root.id}-head`;
      const input = element("input", { type: "radio", name, value, ariaLabel });
      const map = element("canvas", { ariaHidden: "true" });
      return element("label", {}, input, map, element("span", { textContent }));
    };
    const layers = this.model.blocks.map((_, layer) =>
      element("div", {}, ...Array.from({ length: heads }, (_, i) =>
        radio(`${layer} ${i}`, `${layer + 1}.${i + 1}`, `layer ${layer + 1}, head ${i + 1}`))));
    layers[0]?.append(radio("mean", "mean", "the mean of all heads"));
    if (!layers.length) layers.push(radio("mean", "", "")); // hidden
    this.heads.replaceChildren(element("legend", { textContent: "Attention: layer.head" }), ...layers);
    this.heads.hidden = !heads;
    this.heads.querySelector("[value=mean]").checked = true;
    [this.state, this.logits] = [newState(this.model), []];
    this.box.replaceChildren();
    this.restart();
  }

  get head() {
    return this.heads.querySelector(":checked").value;
  }

  /** Read the prompt again, as far as it is new; what was written is gone. */
  restart() {
    this.random = randomNumbers(this.play.seed());
    this.milliseconds = 0;
    this.full = "";
    const length = this.model.config.context_length;
    let ids = this.tokenizer.encode(this.play.prompt());
    if (ids.length >= length) {
      this.full = `the beginning is left out: more than ${length} tokens`;
      ids = ids.slice(-length / 2);
    }
    const other = ids.findIndex((id, i) => id !== this.state.ids[i]);
    const same = other < 0 ? ids.length : other; // as many tokens stay
    rewind(this.state, same);
    this.logits.length = same; // after each token
    this.box.replaceChildren(...[...this.box.children].slice(0, same));
    for (const option of this.box.children) option.className = "";
    for (const id of ids.slice(same)) this.read(id, false);
    this.prompt = this.logits.length;
    this.choose(this.logits.length - 1);
    this.drawHeads();
  }

  /** One more token of the text. */
  read(id, written) {
    const text = this.tokenizer.special.has(id) ? "∎" : this.tokenizer.text(id).replace(/\n/g, "↵\n");
    const option = element("span", { textContent: text, id: `${this.box.id}-${this.logits.length}` });
    option.setAttribute("role", "option");
    option.ariaSelected = "false";
    if (written) option.className = "written";
    this.box.append(option);
    this.logits.push(step(this.model, this.state, id));
  }

  /** Sample a token and read it. False where the text has ended. */
  write() {
    const length = this.model.config.context_length;
    if (!this.logits.length || this.ended()) return false;
    if (this.logits.length >= length) {
      this.full = `the context of ${length} tokens is full (a script would go on from its last half)`;
      return false;
    }
    const began = performance.now();
    this.read(pick(distribution(this.logits.at(-1), this.play.knobs()), this.random), true);
    this.milliseconds += performance.now() - began;
    return true;
  }

  ended() {
    return this.state.ids.at(-1) === this.tokenizer.endOfText;
  }

  /** What to say of the text so far. */
  report() {
    const written = this.logits.length - this.prompt;
    const speed = Math.round((1000 * written) / this.milliseconds);
    const told = written ? `${written} tokens, ${speed} per second` : `${this.prompt} tokens read`;
    const why = this.full || (this.ended() ? "the story has ended" : "");
    return `${this.model.version}: ${told}${why && `; ${why}`}`;
  }

  // -- which token ------------------------------------------------------------------------------

  /** Choose a token, from now on. */
  choose(position) {
    this.chosen = Math.max(0, Math.min(position, this.logits.length - 1));
    const option = this.box.children[this.chosen];
    const old = this.box.querySelector("[aria-selected=true]");
    if (old) old.ariaSelected = "false";
    this.box.setAttribute("aria-activedescendant", option?.id ?? "");
    if (option) {
      option.ariaSelected = "true";
      const [outer, inner] = [this.box, option].map((each) => each.getBoundingClientRect());
      if (inner.bottom > outer.bottom) this.box.scrollTop += inner.bottom - outer.bottom + 8;
      if (inner.top < outer.top) this.box.scrollTop -= outer.top - inner.top + 8;
    }
    this.show(this.chosen);
  }

  key(event) {
    const last = this.logits.length - 1;
    const to = { ArrowLeft: this.chosen - 1, ArrowUp: this.chosen - 1, ArrowRight: this.chosen + 1,
      ArrowDown: this.chosen + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(to);
  }

  /** A token that the pointer is on: shown, and chosen if it is clicked. */
  point(event, chosen) {
    const position = [...this.box.children].indexOf(event.target.closest("[role=option]"));
    if (position < 0) return;
    if (chosen) this.choose(position);
    else this.show(position);
  }

  // -- what is shown ----------------------------------------------------------------------------

  /** The attention weights of a token over all up to it: of a head, as "0 3", or of their mean. */
  weights(position, head) {
    const blocks = this.state.blocks;
    if (head !== "mean") {
      const [layer, number] = head.split(" ");
      return blocks[layer].weights[number][position];
    }
    const all = blocks.flatMap((block) => block.weights.map((rows) => rows[position]));
    return all[0]?.map((_, i) => all.reduce((sum, row) => sum + row[i], 0) / all.length);
  }

  /** The bars after a token, and what it looks at. */
  show(position, head = this.head) {
    const logits = this.logits[position];
    if (!logits) {
      this.next.replaceChildren();
      this.says.textContent = "Type something: these models begin with a token.";
      return;
    }
    const after = distribution(logits, this.play.knobs());
    const before = distribution(logits, { temperature: 1, topK: 0, topP: 1 });
    this.next.replaceChildren(...mostLikely(before, SHOWN).map((id) => {
      const filled = element("span", { className: "bar" });
      const mark = element("span", { className: "before" });
      [filled.style.width, mark.style.width] = [`${100 * after[id]}%`, `${100 * before[id]}%`];
      const track = element("span", { className: "track", ariaHidden: "true" }, filled, mark);
      const number = element("span", { className: "number", textContent: percent(after[id]) });
      return element("li", {}, element("code", { textContent: this.tokenizer.label(id) }), track, number);
    }));
    const here = `“${this.tokenizer.label(this.state.ids[position])}”`;
    const weights = this.weights(position, head);
    [...this.box.children].forEach((option, i) =>
      option.style.setProperty("--w", weights ? (weights[i] ?? 0) : i === position ? 1 : 0));
    if (!weights) {
      this.says.textContent = `After ${here}. The table looks at this token alone.`;
      return;
    }
    const looked = mostLikely(weights, 4).map((i) =>
      `“${this.tokenizer.label(this.state.ids[i])}” ${percent(weights[i])}`);
    const [layer, number] = head.split(" ");
    const who = head === "mean" ? "the mean of all heads" : `head ${+number + 1} of layer ${+layer + 1}`;
    this.says.textContent = `From ${here}, ${who} looks at ${looked.join(", ")}.`;
  }

  /** The small pictures of the heads: a row for each token, a column for each that it looks at. */
  drawHeads() {
    const size = this.logits.length;
    if (this.heads.hidden || !size) return;
    const colour = getComputedStyle(this.root).getPropertyValue("--own").match(/[0-9a-f]{2}/gi);
    const [red, green, blue] = colour.map((part) => parseInt(part, 16));
    for (const label of this.heads.querySelectorAll("label")) {
      const canvas = label.querySelector("canvas");
      const image = new ImageData(size, size);
      for (let row = 0, at = 0; row < size; row++, at = 4 * row * size)
        for (const weight of this.weights(row, label.control.value)) {
          image.data[at++] = red;
          image.data[at++] = green;
          image.data[at++] = blue;
          image.data[at++] = 255 * Math.sqrt(weight); // so that small weights are seen as well
        }
      [canvas.width, canvas.height] = [size, size];
      canvas.getContext("2d").putImageData(image, 0, 0);
    }
  }
}

// ---- Both sides ---------------------------------------------------------------------------------

/** The text, the knobs and both sides. embedded: {models, vocabularies}, as weights.py packs them. */
class Play {
  constructor(embedded) {
    this.embedded = embedded;
    [this.models, this.tokenizers] = [{}, {}];
    this.panes = ["left", "right"].map((id) => new Pane(document.getElementById(id), this));
    this.input("prompt").addEventListener("input", () => this.restart());
    this.input("seed").addEventListener("input", () => this.restart());
    for (const id of ["temperature", "top-k", "top-p"])
      this.input(id).addEventListener("input", () => this.turn());
    document.getElementById("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.left) this.stop();
      else this.write(LONGEST);
    });
    this.input("one").addEventListener("click", () => this.write(1));
    this.input("again").addEventListener("click", () => this.restart());
    for (const link of document.querySelectorAll("[data-versions]"))
      link.addEventListener("click", () => {
        this.input("prompt").value = link.dataset.prompt;
        this.open(...link.dataset.versions.split(" "));
      });
    this.turn();
  }

  input(id) {
    return document.getElementById(id);
  }

  model(version) {
    return (this.models[version] ??= new Model(this.embedded.models[version]));
  }

  tokenizer(version) {
    const { vocabulary } = this.embedded.models[version];
    return (this.tokenizers[vocabulary] ??= new Tokenizer(this.embedded.vocabularies[vocabulary]));
  }

  colour(version) {
    return document.getElementById(version).style.getPropertyValue("--own").trim();
  }

  prompt() {
    return this.input("prompt").value;
  }

  seed() {
    return this.input("seed").valueAsNumber || 0;
  }

  knobs() {
    const value = (id) => this.input(id).valueAsNumber;
    return { temperature: value("temperature"), topK: value("top-k"), topP: value("top-p") };
  }

  /** A knob has moved: the bars follow. */
  turn() {
    const { temperature, topK, topP } = this.knobs();
    this.input("temperature-value").value = temperature ? temperature.toFixed(2) : "0: greedy";
    this.input("top-k-value").value = topK || "off";
    this.input("top-p-value").value = topP < 1 ? topP.toFixed(2) : "off";
    for (const pane of this.panes) if (pane.model) pane.show(pane.chosen);
  }

  open(...versions) {
    this.stop();
    this.panes.forEach((pane, i) => pane.open(versions[i]));
    this.announce();
  }

  restart() {
    this.stop();
    for (const pane of this.panes) pane.restart();
    this.announce();
  }

  /** Let both sides write, a token a frame. */
  write(count) {
    this.left = count;
    this.input("write").textContent = "Stop";
    for (const pane of this.panes) pane.says.ariaLive = "off"; // it would never be silent
    const frame = () => {
      if (!this.left) return;
      this.left--;
      const going = this.panes.map((pane) => pane.write());
      if (!going.some(Boolean)) this.left = 0;
      for (const pane of this.panes) pane.choose(pane.logits.length - 1);
      if (this.left) requestAnimationFrame(frame);
      else this.stop();
    };
    frame();
  }

  stop() {
    this.left = 0;
    this.input("write").textContent = "Write";
    for (const pane of this.panes) {
      pane.says.ariaLive = "polite";
      if (pane.model) pane.drawHeads();
    }
    this.announce();
  }

  announce() {
    const ready = this.panes.filter((pane) => pane.model);
    this.input("announce").textContent = ready.map((pane) => pane.report()).join(". ");
  }
}

/** Open the first and the last version. */
function startPlaying(embedded) {
  const versions = Object.keys(embedded.models);
  const play = new Play(embedded);
  play.open(versions[0], versions.at(-1));
  return play;
}
