"""Where a model's token embeddings lie: `python -m results plot embeddings`."""

import re

from common.data import token_file
from common.errors import UserError
from data import world
from results.commands import RunName
from results.drawing import COLOURS, MARKERS, darker, draw, em, new_figure, picture_kind, with_fonts
from results.saved import load_run
from results.store import markdown

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.path import Path
from matplotlib.text import Text
from scipy.cluster.vq import kmeans2

OTHER = "other words"
TONES = [*COLOURS[1:], "#222222"]  # grey is that of other words
CLUSTERS = 8  # of words of which nothing is known
ENOUGH = 20_000_000  # tokens of the training split that are counted, at most


def whole_words(tokenizer, tokens):
    """{id: word} of the tokens that are mostly whole words, the most frequent first.

    tokens: (N,) ids of a text. A word is a space and letters, and no letter follows: " f" is a
    token, but hardly ever a word.
    """
    texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    ends = np.array([not text[:1].isalpha() for text in texts])  # of the word before
    tokens = np.asarray(tokens[:ENOUGH])
    often = np.bincount(tokens, minlength=len(texts))
    whole = np.bincount(tokens[:-1][ends[tokens[1:]]], minlength=len(texts))
    words = {i: text[1:] for i, text in enumerate(texts) if re.fullmatch(r" [^\W\d_]+", text)}
    known = [i for i in words if whole[i] > often[i] / 2]
    return {i: words[i] for i in sorted(known, key=lambda i: (-whole[i], i))}


def kinds_of_words(words, vectors, data):
    """The kind of each word: in the sample's world its part there, elsewhere its cluster.

    vectors: (N, C) of the words. A cluster (k-means of the vectors' directions) has the name of
    the three words nearest to its centre.
    """
    if data == "sample":
        materials = " ".join([*world.HARD.values(), *world.SOFT.values(), *world.BOXES.values()])
        table = {
            "women": world.WOMEN,
            "men": world.MEN,
            "trades": world.ROLES,
            "places": world.PLACES,
            "looks": world.LOOKS,
            "materials, colours": materials.split(),
            "things": [*world.HARD, *world.SOFT],
            "boxes": world.BOXES,
        }
        kinds = {word: kind for kind, each in reversed(table.items()) for word in each}
        return [kinds.get(word, OTHER) for word in words]
    unit = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1).numpy()
    centres, members = kmeans2(unit, min(CLUSTERS, len(words)), minit="++", rng=1)
    names = {}
    for cluster in set(members.tolist()):
        rows = np.flatnonzero(members == cluster)
        nearest = rows[np.argsort(np.square(unit[rows] - centres[cluster]).sum(-1))[:3]]
        names[cluster] = ", ".join(words[row] for row in nearest)
    return [names[member] for member in members.tolist()]


def on_a_plane(vectors):
    """Principal components: coordinates (N, 2), and the share of the variance of both axes."""
    vectors = vectors.cpu().double()  # the picture shows no rounding, whatever the threads
    U, S, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    xy = U[:, :2] * S[:2]
    signs = torch.sign(xy.gather(0, xy.abs().argmax(0, keepdim=True)))  # else they are arbitrary
    return xy * signs, (S**2 / (S**2).sum())[:2]


def nearest(vectors, row, n=5):
    """The n rows most similar to one (cosine): [(row, similarity), ...], without itself."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similar = unit @ unit[row]
    similar[row] = -2
    best = similar.topk(min(n, len(vectors) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def embeddings_figure(xy, shares, words, kinds, n_labels, title, requested, size=(11, 6.5)):
    """A mark for each word, by its kind; the kinds and the first n_labels words are named.

    xy (N, 2); words: the most frequent first; kinds: that of each word; requested: words that are
    named before all others, with a line to it where it is crowded; size: in inches.
    """
    both = with_fonts([*words, *kinds])
    words, kinds = both[: len(words)], both[len(words) :]
    order = list(dict.fromkeys(kind for kind in kinds if kind != OTHER))
    figure = new_figure(*size)
    axes = figure.subplots()
    colours = {kind: TONES[i % len(TONES)] for i, kind in enumerate(order)}
    colours[OTHER] = "#aaaaaa"
    for number, kind in enumerate([OTHER, *order]):
        points = xy[[i for i, each in enumerate(kinds) if each == kind]].numpy()
        looks = {"s": 34, "marker": MARKERS[number % 8]} if number else {"s": 12, "marker": "o"}
        looks |= {"color": colours[kind], "alpha": 0.8, "linewidths": 0}
        if len(points):
            axes.scatter(*points.T, label=kind, **looks)
    names = [f"component {i} ({share:.0%} of the variance)" for i, share in enumerate(shares, 1)]
    axes.set(title=title, xlabel=f"principal {names[0]}", ylabel=f"principal {names[1]}")
    axes.margins(0.08)
    figure.draw_without_rendering()  # only now does the axes know its limits
    marks = [point for point, kind in zip(xy.tolist(), kinds, strict=True) if kind != OTHER]
    marks = axes.transData.transform(marks or xy)
    marks = [rectangle(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    texts = []  # the outlines of what is written, and the lines to it
    for kind in order:  # a cluster's name next to its words, or else among them
        points = xy[[i for i, each in enumerate(kinds) if each == kind]]
        (x, y), (left, low), (right, high) = points.median(0).values, points.amin(0), points.amax(0)
        sides = [(x, high), (right, y), (x, low), (left, y), *[(x, y)] * 4]
        looks = {"color": darker(colours[kind]), "weight": "bold", "fontsize": "large"}
        if not place(axes, kind, sides, marks, texts, far=FAR, **looks):
            place(axes, kind, [(x, y)] * 8, [], crowded := [], **looks)
            texts += crowded
    for i in [i for i, word in enumerate(words) if word in requested]:
        looks = {"color": darker(colours[kinds[i]]), "far": FAR}
        place(axes, words[i], [xy[i]] * 8, marks, texts, **looks)
    named = len(requested)
    for i in sorted(range(len(words)), key=lambda i: kinds[i] == OTHER):  # words of a kind first
        looks = {"color": darker(colours[kinds[i]]), "fontsize": "small"}
        if named < n_labels and words[i] not in requested:
            named += place(axes, words[i], [xy[i]] * 8, marks, texts, **looks)
    return figure


# Where a label goes from its point, and how it is aligned: above, right, below, left, in between.
SIDES = [(0, 1, "center", "bottom"), (1, 0, "left", "center"), (0, -1, "center", "top")]
SIDES += [(-1, 0, "right", "center"), (0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top")]
SIDES += [(-0.7, -0.7, "right", "top"), (-0.7, 0.7, "right", "bottom")]
FAR = range(1, 10)  # how many steps away it may be, where it has to be written


def rectangle(x0, y0, x1, y1):
    return Path([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])


def place(axes, text, points, marks, texts, far=(1,), **looks):
    """Write a text at the first of its places where nothing is yet: near one of the points, or
    further away, by so many steps, with a line to it.

    points: those for each of the SIDES. marks, texts: the outlines of what is on the figure, in
    pixels; the text and its line join the texts. Returns False, having written nothing, where all
    places are occupied.
    """
    halo, inside = [patheffects.withStroke(linewidth=3, foreground="white")], axes.bbox
    for n in far:
        step = 36 * em() * n  # in points, of which there are 72 to an inch
        arrow = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.7} if n > 1 else None
        for (dx, dy, ha, va), point in zip(SIDES, points, strict=True):
            point = [float(z) for z in point]
            label = axes.annotate(
                text,
                point,
                (step * dx, step * dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                path_effects=halo,
                arrowprops=arrow,
                **looks,
            )
            label.get_window_extent()  # now the label knows where it is
            box = Text.get_window_extent(label).padded(2)  # without the line
            outline = rectangle(*box.extents)
            start, away = axes.transData.transform(point), step / 72 * axes.figure.dpi
            line = Path([start, start + (away * dx, away * dy)])
            free = not any(outline.intersects_path(other) for other in [*marks, *texts])
            free = free and not any(line.intersects_path(other) for other in texts)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1:
                texts += [outline, line]
                return True
            label.remove()
    return False


def embeddings(
    run: RunName,
    words: int = 300,
    labels: int = 70,
    neighbours: tuple[str, ...] = (),
    data_dir: str = "",
    out: str = "embeddings.png",
    slide: bool = False,
    device: str = "auto",
):
    """A run's token embeddings on a plane, and the nearest neighbours of some words, printed.

    Only the most frequent tokens that are whole words are shown: the vectors of rare ones are
    mostly still the noise that they began as. The plane is that of their two principal components.

    Args:
        run: a run's folder, or a version, as v4: its published run
        words: how many are shown
        labels: how many of them are named, if there is room: those of a known kind first
        neighbours: words whose neighbours are printed; without, frequent ones of each kind
        data_dir: where the corpus is, if not where the run found it
        out: the picture, .png or .svg
        slide: large type
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    run = load_run(run, device)
    names, vectors = frequent_words(run, words, data_dir)
    unknown = [word for word in neighbours if word not in names]
    if unknown:
        many = f"the {len(names)} most frequent words that are one token each"
        raise UserError(f"{unknown[0]!r} is not among {many}: give more --words, or another word")
    kinds = kinds_of_words(names, vectors, run.config.data)
    print(markdown(*neighbours_table(names, kinds, vectors, neighbours), aligned=True))
    title = f"{run.label}: token embeddings"
    draw(
        out, slide, embeddings_figure, *on_a_plane(vectors), names, kinds, labels, title, neighbours
    )


def frequent_words(run, n, data_dir=""):
    """The n most frequent whole words of a SavedRun's corpus, and their vectors (n, C)."""
    tokens = token_file(run.corpus(data_dir), "train", run.tokenizer).memmap()
    found = list(whole_words(run.tokenizer, tokens).items())[: max(n, 3)]
    if len(found) < 3:
        raise UserError(f"the vocabulary of {run.label} has no whole words to show")
    ids, names = map(list, zip(*found, strict=True))
    # The embedding (V, C), or a bigram table's rows (V, V).
    layer = getattr(run.model, "token_embedding", None) or run.model.table
    return names, layer.weight.detach().float().cpu()[ids]


def neighbours_table(names, kinds, vectors, requested):
    """Head and rows: the nearest neighbours of the requested words; where there are none, of the
    first two of each kind.
    """
    first_of_kind = [
        name
        for kind in dict.fromkeys(kinds)
        for name in [n for n, k in zip(names, kinds, strict=True) if k == kind][:2]
    ]
    rows = []
    for word in requested or first_of_kind:
        row = names.index(word)
        near = [f"{names[i]} {similarity:.2f}" for i, similarity in nearest(vectors, row)]
        rows.append([word, kinds[row], ", ".join(near)])
    return ["word", "kind", "nearest neighbours (cosine)"], rows
