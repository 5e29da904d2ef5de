"""What happens inside a model: where its heads look, what it expects next, where its tokens lie.

The pictures of `python -m results.plots attention`, `predictions` and `embeddings`.
"""

import contextlib
import math
import re

import numpy as np
import torch
import torch.nn.functional as F

from common.data import load_corpus, token_file
from results.diagnostics import training_words
from common.errors import UserError
from results.plots import new_figure, picture_kind, save
from results.tables import ROOT, markdown
from results.saved import evaluating, load_script, open_run

PROMPT = "At the mill stood Mira the baker, who was holding an old brass key."
PROMPT += " Mira was very proud of her old brass key."
MARKERS = "o s ^ D v P X * p h".split()
TONES = "#d95f02 #7570b3 #1b9e77 #e7298a #4d8a0a #2166ac #a6761d #222222".split()


def prompt_ids(run, prompt):
    """The prompt's ids (1, T). Raises UserError where it is empty or longer than the context."""
    ids = list(run.tokenizer.encode(prompt))
    if not 1 <= len(ids) <= run.config.context_length:
        raise UserError(
            f"--prompt has {len(ids)} tokens; {run.label} reads 1 to {run.config.context_length}"
        )
    return torch.tensor([ids], device=run.device)


def shown(tokenizer, ids):
    """Each id as a label: without the space before a word, other white space as a sign."""
    texts = [tokenizer.decode([int(i)]) for i in ids]
    texts = [text[1:] if text[:1] == " " and text.strip() else text for text in texts]
    texts = [text.replace("\n", "↵").replace(" ", "␣").replace("$", r"\$") for text in texts]
    return ["".join(c if c.isprintable() else f"<{ord(c):02x}>" for c in text) for text in texts]


# ---- Attention -----------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_attention():
    """While it lasts, F.scaled_dot_product_attention's weights are kept: a list of (B, H, T, T).

    The same computation written out (Vaswani et al. 2017): softmax(q k^T / sqrt(D) + mask) v.
    """
    recorded, real = [], F.scaled_dot_product_attention

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        if attn_mask is not None:
            scores = scores + attn_mask
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        weights = F.softmax(scores, dim=-1)
        recorded.append(weights)
        return weights @ v

    F.scaled_dot_product_attention = attention
    try:
        yield recorded
    finally:
        F.scaled_dot_product_attention = real


def attention_weights(model, idx):
    """The weights of each layer's heads for idx (1, T): a list of (H, T, T), rows sum to 1.

    v2 keeps its weights; of the others they are recorded on the way. [] without attention.
    """
    with evaluating(model), recorded_attention() as recorded:
        model(idx)
    kept = [getattr(module, "weights", None) for module in model.modules()]
    return [w[0] for w in recorded or kept if torch.is_tensor(w)]


def attention_figure(weights, tokens, title, layer=0, head=0):
    """A grey map for each head: a row of maps for each layer, those of one layer, or one alone.

    Rows of a map are the tokens that look, columns those that are looked at: white is 0, black 1.
    layer, head: which, from 1; 0 is all.
    """
    layers = [layer - 1] if layer else range(len(weights))
    heads = [head - 1] if head else range(len(weights[0]))
    maps = [(i, j) for i in layers for j in heads]
    columns = min(4, len(maps)) if len(layers) == 1 else len(heads)
    rows = math.ceil(len(maps) / columns)
    T, alone = len(tokens), len(maps) == 1
    side = 0.27 * T if alone else max(1.6, 0.125 * T)  # inches
    figure = new_figure(columns * side + 1.8, rows * (side + 0.25) + 1.2)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for (i, j), axes in zip(maps, grid.flat):
        picture = axes.imshow(weights[i][j].cpu().numpy(), cmap="Greys", vmin=0, vmax=1)
        axes.set_title(f"layer {i + 1}, head {j + 1}", fontsize=10)
        size = 10 if alone else 6.5
        axes.set_xticks(range(T), tokens, rotation=90, fontsize=size)
        axes.set_yticks(range(T), tokens, fontsize=size)
        axes.tick_params(length=0)
    figure.suptitle(title, fontsize=12)
    figure.supylabel("the token that looks", fontsize=10)
    figure.supxlabel("the token that is looked at", fontsize=10)
    bar = figure.colorbar(picture, ax=grid, shrink=0.8, aspect=30, pad=0.01)
    bar.set_label("weight", fontsize=9)
    return figure


def attention(
    run: str,
    prompt: str = PROMPT,
    layer: int = 0,
    head: int = 0,
    out: str = "attention.png",
    device: str = "auto",
):
    """Where each attention head of a run looks in a prompt.

    Args:
        run: a run's folder
        prompt: the text that is read
        layer: this layer alone, from 1; 0 is all
        head: this head alone, from 1; 0 is all
        out: the picture, .png or .svg
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    run = open_run(run, device)
    idx = prompt_ids(run, prompt)
    weights = attention_weights(run.model, idx)
    if not weights:
        raise UserError(f"{run.version} has no attention: take a run of v2 or later")
    L, H = len(weights), len(weights[0])
    if not (0 <= layer <= L and 0 <= head <= H):
        raise UserError(f"{run.label} has {L} layers of {H} heads: --layer and --head count from 1")
    tokens = shown(run.tokenizer, idx[0])
    save(attention_figure(weights, tokens, f"{run.label}: attention", layer, head), out)


# ---- Predictions ---------------------------------------------------------------------------------


def next_probabilities(model, idx):
    """What the model expects behind each token of idx (1, T): probabilities (T, V)."""
    with evaluating(model):
        return model(idx)[0].float().softmax(-1).cpu()


def predictions_table(probabilities, ids, tokenizer, k):
    """A row a position: [token, [(guess, probability, true?), ...], truth].

    truth: (token, probability, rank from 1) of the one that follows; None behind the last.
    """
    best = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1)
    rows = []
    for i, token in enumerate(shown(tokenizer, ids)):
        follows = int(ids[i + 1]) if i + 1 < len(ids) else None
        words = shown(tokenizer, best.indices[i])
        guesses = [
            (word, float(p), int(guess) == follows)
            for word, p, guess in zip(words, best.values[i], best.indices[i])
        ]
        truth = None
        if follows is not None:
            p = float(probabilities[i, follows])
            rank = 1 + int((probabilities[i] > probabilities[i, follows]).sum())
            truth = (shown(tokenizer, [follows])[0], p, rank)
        rows.append([token, guesses, truth])
    return rows


def percent(p):
    return "<1 %" if p < 0.01 else f"{100 * p:.0f} %"


def predictions_figure(rows, title):
    """The table as a picture: the darker a guess, the surer; the true next token has a frame."""
    from matplotlib.patches import Rectangle

    n, k = len(rows), len(rows[0][1])
    figure = new_figure(1.35 * (k + 2) + 0.6, 0.31 * n + 1.1)
    axes = figure.subplots()
    shades = np.array([[p for _, p, _ in guesses] for _, guesses, _ in rows])
    axes.imshow(shades, cmap="Greys", vmin=0, vmax=1, aspect="auto", extent=(0, k, n, 0))
    for i, (_, guesses, truth) in enumerate(rows):
        for j, (word, p, true) in enumerate(guesses):
            colour = "white" if p > 0.5 else "black"
            axes.text(j + 0.05, i + 0.5, word, va="center", color=colour, fontsize=9,
                      weight="bold" if true else "normal")  # fmt: skip
            axes.text(j + 0.95, i + 0.5, percent(p), va="center", ha="right", color=colour,
                      fontsize=8)  # fmt: skip
            if true:
                frame = Rectangle((j + 0.015, i + 0.06), 0.97, 0.88, fill=False, lw=2, ec="#D55E00")
                axes.add_patch(frame)
        if truth:
            word, p, rank = truth
            axes.text(k + 0.1, i + 0.5, word, va="center", weight="bold", fontsize=9)
            axes.text(k + 1.5, i + 0.5, f"{percent(p)}, rank {rank}", va="center", ha="right",
                      fontsize=8)  # fmt: skip
    axes.text(k + 0.1, -0.35, "true next token", fontsize=9, va="center")
    axes.set_xlim(0, k + 1.55)
    axes.set_yticks([i + 0.5 for i in range(n)], [token for token, *_ in rows], fontsize=9)
    axes.set_xticks([j + 0.5 for j in range(k)], [f"guess {j + 1}" for j in range(k)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("the text so far, token by token")
    figure.suptitle(title, fontsize=11)
    return figure


def predictions(
    run: str,
    prompt: str = PROMPT,
    top: int = 5,
    out: str = "predictions.png",
    device: str = "auto",
):
    """The likeliest next tokens at each position of a prompt; printed too.

    Args:
        run: a run's folder
        prompt: the text that is read
        top: how many guesses
        out: the picture, .png or .svg
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    if not 1 <= top <= 20:
        raise UserError(f"--top {top}: it has to be between 1 and 20")
    run = open_run(run, device)
    idx = prompt_ids(run, prompt)
    rows = predictions_table(next_probabilities(run.model, idx), idx[0], run.tokenizer, top)
    lines = []
    for token, guesses, truth in rows:
        cells = [f"{'*' * true}{word}{'*' * true} {percent(p)}" for word, p, true in guesses]
        last = f"{truth[0]} {percent(truth[1])}, {truth[2]}" if truth else ""
        lines.append([token, *cells, last])
    heads = [f"guess {i + 1}" for i in range(len(rows[0][1]))]
    print(markdown(["behind", *heads, "true, rank"], lines))
    save(predictions_figure(rows, f"{run.label}: what comes next?"), out)


# ---- Embeddings ----------------------------------------------------------------------------------


def embedding_of(model):
    """A vector for each token (V, C): the embedding, or a bigram table's rows (V, V)."""
    layer = getattr(model, "token_embedding", None) or model.table
    return layer.weight.detach().float().cpu()


def whole_words(tokenizer):
    """{id: word} of the tokens that are a word by themselves: a space and letters."""
    texts = {i: tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    return {i: text[1:] for i, text in texts.items() if re.fullmatch(r" [^\W\d_]+", text)}


def kinds_of_words(data):
    """{kind: set of words}, in the sample's world; of other texts nothing is known but capitals."""
    if data != "sample":
        return {}
    world = load_script(ROOT / "data" / "world.py")
    materials = " ".join([*world.HARD.values(), *world.SOFT.values(), *world.BOXES.values()])
    return {
        "women": set(world.WOMEN), "men": set(world.MEN), "trades": set(world.ROLES),
        "places": set(world.PLACES), "looks": set(world.LOOKS),
        "materials and colours": set(materials.split()),
        "things": {*world.HARD, *world.SOFT}, "boxes": set(world.BOXES),
    }  # fmt: skip


def kind_of(word, kinds):
    for kind, words in kinds.items():
        if word in words:
            return kind
    return "capitalised" if word[0].isupper() and not kinds else "other words"


def on_a_plane(vectors):
    """Principal components: coordinates (N, 2), and the share of the variance of both axes."""
    centred = vectors - vectors.mean(0)
    U, S, _ = torch.linalg.svd(centred, full_matrices=False)
    xy = U[:, :2] * S[:2]
    signs = torch.sign(xy.gather(0, xy.abs().argmax(0, keepdim=True)))  # else they are arbitrary
    return xy * signs, (S**2 / (S**2).sum())[:2]


def nearest(vectors, row, n=5):
    """The n rows most similar to one (cosine): [(row, similarity), ...], without itself."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similar = unit @ unit[row]
    similar[row] = -2
    best = similar.topk(min(n, len(vectors) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist()))


def embeddings_figure(xy, shares, words, kinds, n_labels, title):
    """A mark for each word, by its kind; the first n_labels that there is room for are named.

    xy (N, 2); words: the most frequent first; kinds: that of each word.
    """
    figure = new_figure(11, 6.5)
    axes = figure.subplots()
    order = sorted(set(kinds) - {"other words"}, key=kinds.index)
    looks = {kind: (MARKERS[i % 10], TONES[i % 8]) for i, kind in enumerate(order)}
    looks["other words"] = (".", "0.75")
    xy_array = xy.numpy()
    for kind in ["other words", *order]:
        at = [i for i, each in enumerate(kinds) if each == kind]
        marker, tone = looks[kind]
        if at:
            axes.scatter(*xy_array[at].T, s=12 if marker == "." else 30, marker=marker,
                         color=tone, alpha=0.8, linewidths=0, label=kind)  # fmt: skip
    x, y = (f"principal component {i + 1} ({100 * share:.0f} % of the variance)"
            for i, share in enumerate(shares))  # fmt: skip
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    name_points(axes, xy, words, [looks[kind][1] for kind in kinds], n_labels)
    return figure


def name_points(axes, xy, words, tones, n_labels):
    """Names beside points, the first first; one that finds no free side is left out."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()
    marks = [point for point, tone in zip(xy.tolist(), tones) if tone != "0.75"]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(marks or xy)]
    most = len(taken) + n_labels
    for (x, y), word, tone in zip(xy.tolist(), words, tones):
        if len(taken) == most:
            break
        for dx, dy, ha, va in ((6, 0, "left", "center"), (-6, 0, "right", "center"),
                               (0, 5, "center", "bottom"), (0, -5, "center", "top")):  # fmt: skip
            text = axes.annotate(word, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va,
                                 fontsize=8, color="0.35" if tone == "0.75" else tone)  # fmt: skip
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def embeddings(
    run: str,
    words: int = 500,
    labels: int = 60,
    neighbours: tuple[str, ...] = (),
    data_dir: str = "",
    out: str = "embeddings.png",
    device: str = "auto",
):
    """A run's token embeddings on a plane, and the nearest neighbours of some words, printed.

    Only the most frequent tokens that are whole words are shown: the vectors of rare ones are
    mostly still the noise they began as. The plane is that of their two principal components.

    Args:
        run: a run's folder
        words: how many are shown
        labels: how many of them are named, the most frequent ones that there is room for
        neighbours: words whose neighbours are printed; without, frequent ones of each kind
        data_dir: where the corpus lies, if not where the run found it
        out: the picture, .png or .svg
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    run = open_run(run, device)
    config = run.config
    corpus = load_corpus(config.data, data_dir or config.data_dir or None)
    tokens = token_file(corpus, "train", run.tokenizer).memmap()
    counts = np.bincount(tokens, minlength=run.tokenizer.vocab_size)
    known = training_words(corpus)  # " f" is a token, but no word
    whole = whole_words(run.tokenizer)
    whole = {i: word for i, word in whole.items() if counts[i] and word.lower() in known}
    ids = sorted(whole, key=lambda i: (-counts[i], i))[: max(words, 3)]
    names = [whole[i] for i in ids]
    if len(names) < 3:
        raise UserError(f"the vocabulary of {run.label} has no whole words to show")
    vectors = embedding_of(run.model)[ids]
    table = kinds_of_words(config.data)
    kinds = [kind_of(name, table) for name in names]
    unknown = [word for word in neighbours if word not in names]
    if unknown:
        many = f"the {len(names)} most frequent words that are one token each"
        raise UserError(f"{unknown[0]!r} is not among {many}: give more --words, or another word")
    asked = neighbours or [
        name for kind in dict.fromkeys(kinds)
        for name in [n for n, k in zip(names, kinds) if k == kind][:2]
    ]  # fmt: skip
    lines = []
    for word in asked:
        near = nearest(vectors, names.index(word))
        cells = [f"{names[i]} {similarity:.2f}" for i, similarity in near]
        lines.append([word, kinds[names.index(word)], ", ".join(cells)])
    head = ["word", "kind", "nearest neighbours (cosine)"]
    print(markdown(head, lines, aligned=True))
    xy, shares = on_a_plane(vectors)
    title = f"{run.label}: token embeddings"
    save(embeddings_figure(xy, shares, names, kinds, labels, title), out)
    return head, lines
