"""Pictures of runs, to compare them or to show them on a slide.

    python -m results plot curves runs/v2 runs/v3        loss curves in one picture
    python -m results plot curves v2-sample v3-sample    those of the published runs, all seeds
    python -m results plot context                       loss against the length of the context
    python -m results plot vocabulary                    bits per byte against vocabulary size
    python -m results plot published                     those of the README, in results/
    python -m results plot attention runs/v2             the attention weights of each head
    python -m results plot induction runs/v3             which heads are induction heads
    python -m results plot predictions runs/v2           the most likely next tokens in a prompt
    python -m results plot embeddings runs/v2            the token embeddings on a plane
    python -m results plot gains runs/v5 runs/v6         which predictions got better

--out FILE.png or FILE.svg says where the picture goes, --slide draws it in large type.
"""

import re
from pathlib import Path
from typing import Literal

from common.errors import UserError
from results.attention import attention, induction
from results.commands import RunNames
from results.drawing import (
    colour,
    draw,
    draw_line,
    horizontal_grid,
    label_ends,
    log_ticks,
    logarithmic,
    new_figure,
    picture_kind,
)
from results.embeddings import embeddings
from results.gains import gains, gains_figure, published_gains
from results.pictures import model_pictures
from results.plan import PLAN, variants
from results.predictions import predictions
from results.saved import read_settings
from results.store import ROOT, entropy, load_results, read_points, read_result, versions

AXES = {
    "steps": ("step", 1, "steps"),
    "tokens": ("tokens", 1e6, "tokens seen, millions"),
    "seconds": ("seconds", 1, "seconds of training"),
}


# ---- Loss curves ---------------------------------------------------------------------------------


def published_points(name):
    """(version, data, [points of each seed], [result of each]) of a published run's name.

    None where no seed has a curve. The results are bits per byte of the whole validation split; the
    points may be of a fixed part of it.
    """
    results = [result for result in load_results(name).values() if result.curve]
    if not results:
        return None
    points, bits = [each.curve for each in results], [each.val_bits_per_byte for each in results]
    return results[0].version, results[0].config.get("data"), points, bits


def line_groups(names):
    """Folders and names of published runs as lines, and their data: see `curves_figure`.

    Folders whose names differ only in their ending, -seed1 or -seed2, are one line.
    """
    lines, all_data = {}, set()
    for name in dict.fromkeys(names):
        if (Path(name) / "config.json").exists():
            version, settings = read_settings(name)
            data, folder = settings.get("data"), Path(name)
            points = read_points(folder)
            ended = (folder / "result.json").exists()
            last = read_result(folder / "result.json") if ended else points[-1]
            points, bits = [points], [last.val_bits_per_byte]
            label = re.sub(r"-seed\d+$", "", str(name).rstrip("/"))
        else:
            found = published_points(name) if re.fullmatch(r"[\w-]+", name) else None
            if not found:
                raise UserError(f"no run in {name}, and no curve of a run of that name in results/")
            (version, data, points, bits), label = found, name
        _, all_points, all_bits = lines.setdefault(label, (version, [], []))
        all_points.extend(points)
        all_bits.extend(bits)
        all_data.add(data)
    if len(all_data) > 1:
        raise UserError(f"runs of different data don't compare: {', '.join(map(str, all_data))}")
    return lines, all_data.pop()


def curves_figure(lines, x="steps", bound=None):
    """Bits per byte of the validation split during the training, with a label at each end.

    lines: {label: (version, [points of each seed], [result of each seed])}. Of seeds whose runs
    differ in length, the part that all have. The seconds are the first seed's, as in the tables,
    and the label has the mean of the results. bound: the entropy of the corpus in bits per byte,
    where it is known.
    """
    figure = new_figure(8.5, 4.8)
    axes = figure.subplots()
    key, unit, name = AXES[x]
    versions = [version for version, *_ in lines.values()]
    drawn = []
    for number, (label, (version, runs, _)) in enumerate(lines.items()):
        n = min(map(len, runs))
        xs = [getattr(point, key) / unit for point in runs[0][:n]]
        ys = [[point.val_bits_per_byte for point in run[:n]] for run in runs]
        own = colour(version) if versions.count(version) == 1 else None
        drawn.append(draw_line(axes, xs, ys, label, number, own))
    values = [value for line in drawn for value in line.get_ydata()]
    logarithmic(axes, min([*values, bound or min(values)]), max(values))
    if bound:
        axes.axhline(bound, color="0.4", linestyle=(0, (1, 3)), linewidth=1)
        axes.annotate(
            f"lower bound (entropy): {bound:.3f}",
            (0, bound),
            xytext=(4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color="0.3",
        )
    axes.set(xlabel=name, ylabel="validation, bits per byte (log scale)")
    axes.margins(x=0.02)
    horizontal_grid(axes)
    label_ends(axes, drawn, [sum(bits) / len(bits) for *_, bits in lines.values()])
    return figure


def curves(
    runs: RunNames,
    x: Literal["steps", "tokens", "seconds"] = "steps",
    out: str = "curves.png",
    slide: bool = False,
):
    """Loss curves of several runs; folders that differ in the ending -seedN are one line.

    Args:
        runs: run folders, or names of published runs, as v2-sample
        x: the horizontal axis
        out: the picture, .png or .svg
        slide: large type
    """
    picture_kind(out)
    if not runs:
        raise UserError("name folders or published runs: python -m results plot curves runs/v2")
    lines, data = line_groups(runs)
    draw(out, slide, curves_figure, lines, x, entropy() if data == "sample" else None)


# ---- Tables as pictures --------------------------------------------------------------------------


def context_figure(rows):
    """Bits per byte against the windows' length, side by side and sliding.

    rows: {label: [a seed's Windows, ...]}.
    """
    figure = new_figure(11, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {
        "side_by_side": "windows side by side: does far context harm?",
        "sliding": "windows sliding by half: does it help?",
    }
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        lengths = {}
        for number, (label, seeds) in enumerate(rows.items()):
            n = min(map(len, seeds))
            x = [row.context for row in seeds[0][:n]]
            lengths |= {row.context: row.times for row in seeds[0]}
            ys = [[getattr(row, kind) for row in seed[:n]] for seed in seeds]
            draw_line(axes, x, ys, label, number)
        axes.set_xscale("log", base=2)
        log_ticks(axes.xaxis, sorted(lengths), lambda n, of=lengths: f"{n}\n{of[n]}×")
        axes.set(title=title, xlabel="context, tokens and times the training context")
        axes.margins(y=0.12)
        horizontal_grid(axes)
    panels[0].set_ylabel("validation, bits per byte")
    values = [y for axes in panels for line in axes.lines for y in line.get_ydata()]
    if max(values) > 3 * min(values):  # one that breaks down would flatten all the others
        logarithmic(panels[0], min(values), max(values))
        panels[0].set_ylabel("validation, bits per byte (log scale)")
    for axes in panels:
        label_ends(axes, axes.lines)
    return figure


def context_rows():
    """{kind of position: [a seed's losses beyond the training context, ...]} in results/."""
    rows = {}
    for label, name in variants("position"):
        rows[label] = [seed for result in load_results(name).values() if (seed := result.windows())]
    return {label: seeds for label, seeds in rows.items() if seeds}


def vocabulary_figure(rows):
    """Bits per byte against the size of the vocabulary; rows: {label: {size: [of each seed]}}."""
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    drawn = []
    for number, (label, sizes) in enumerate(rows.items()):
        x, n = sorted(sizes), min(map(len, sizes.values()))
        seeds = [[sizes[size][seed] for size in x] for seed in range(n)]
        drawn.append(draw_line(axes, x, seeds, label, number, colour(label.split()[0])))
    every = sorted({size for sizes in rows.values() for size in sizes})
    log_ticks(axes.xaxis, every, "{:,}".format)
    axes.set(xlabel="vocabulary, tokens (log scale)", ylabel="validation, bits per byte")
    axes.margins(y=0.12)
    horizontal_grid(axes)
    label_ends(axes, drawn)
    return figure


def vocabulary_rows():
    """{VERSION on CORPUS: {size: [bits per byte of each seed]}} of the plan's vocabularies.

    The size is that of the vocabulary: BPE may stop before the size that was requested.
    """
    rows = {}
    for name in dict.fromkeys(n for r in PLAN if r.table == "vocabulary" for n in (r.base, r.name)):
        for result in load_results(name).values():
            label = name.partition("-vocab-")[0].replace("-", " on ", 1)
            sizes = rows.setdefault(label, {}).setdefault(result.tokenizer.vocab_size, [])
            sizes.append(result.val_bits_per_byte)
    return rows


# ---- The README's pictures -----------------------------------------------------------------------


def published_pictures():
    """{file in results/: (what makes its figure, the data that it shows)}, without empty ones."""
    found = {version: published_points(f"{version}-sample") for version in versions()}
    lines = {version: (version, *each[2:]) for version, each in found.items() if each}
    pictures = {
        "curves.svg": (curves_figure, lines, "seconds", entropy()),
        "context.svg": (context_figure, context_rows()),
        "vocabulary.svg": (vocabulary_figure, vocabulary_rows()),
        "gains.svg": (gains_figure, published_gains()),
    }
    return {name: picture for name, picture in pictures.items() if picture[1]} | model_pictures()


def published():
    """Draw the README's pictures again, in results/."""
    for name, picture in published_pictures().items():
        draw(ROOT / "results" / name, False, *picture)


def draw_published(name, out, slide):
    """Draw one of `published_pictures`. Raises UserError where results/ has nothing of it."""
    picture_kind(out)
    pictures = published_pictures()
    if name not in pictures:
        raise UserError(f"results/ has no run for {name}: make them, python -m results publish")
    draw(out, slide, *pictures[name])


def context(out: str = "context.png", slide: bool = False):
    """Loss against the length of the context, for each kind of position that is in results/.

    Args:
        out: the picture, .png or .svg
        slide: large type
    """
    draw_published("context.svg", out, slide)


def vocabulary(out: str = "vocabulary.png", slide: bool = False):
    """Bits per byte against vocabulary size, of the published runs.

    Args:
        out: the picture, .png or .svg
        slide: large type
    """
    draw_published("vocabulary.svg", out, slide)


plot = {
    "curves": curves,
    "context": context,
    "vocabulary": vocabulary,
    "published": published,
    "attention": attention,
    "induction": induction,
    "predictions": predictions,
    "embeddings": embeddings,
    "gains": gains,
}
