"""Pictures of runs, to be put beside each other or on a slide.

    python -m results.plots curves runs/v2 runs/v3        loss curves, overlaid
    python -m results.plots curves v2-sample v3-sample    those of the published runs, all seeds
    python -m results.plots context                       v4's loss against the context's length
    python -m results.plots vocabulary                    bits per byte against vocabulary size
    python -m results.plots readme                        the README's three pictures, in results/
    python -m results.plots attention runs/v2             what each head looks at in a prompt
    python -m results.plots predictions runs/v2           the likeliest next tokens in a prompt
    python -m results.plots embeddings runs/v2            the tokens' embeddings on a plane

--out FILE.png or FILE.svg says where the picture goes. Lines differ in dashes and markers too, so
that prints without colour can be read. matplotlib is loaded when a picture is drawn: it is slow.
"""

import json
import re
from pathlib import Path
from typing import Literal

from common.cli import LATER, SAFE_TO_CHANGE, run_command, run_main
from common.data import load_corpus
from common.errors import UserError
from common.files import atomic_write
from results.tables import ORDER, POSITIONS, ROOT, load_results, read_result

# Line and marker; the colours (Okabe and Ito's) differ for the colour-blind and in brightness.
LOOKS = [
    ("black", "-", "o"), ("#0072B2", "--", "s"), ("#D55E00", "-.", "^"), ("#009E73", ":", "D"),
    ("#CC79A7", (0, (5, 1)), "v"), ("#56B4E9", (0, (1, 1)), "P"),
    ("#E69F00", (0, (3, 1, 1, 1)), "X"), ("0.4", "-", "*"),
]  # fmt: skip
AXES = {"steps": ("step", 1, "steps"), "tokens": ("tokens", 1e6, "tokens seen, millions"),
        "seconds": ("seconds", 1, "seconds of training")}  # fmt: skip
# Settings in which the runs that are drawn as one line may differ.
NOT_THE_LINE = {*SAFE_TO_CHANGE, "seed"} - {"steps", "eval_every"}


def loss_curve(metrics, path, title, floor=None):
    """The run's bits per byte over its steps as a PNG, with the corpus' entropy floor if known.

    metrics  the lines of metrics.jsonl as dictionaries
    """
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    steps = [row["step"] for row in metrics]
    axes.plot(steps, [row["val_bits_per_byte"] for row in metrics], "k-o", markersize=3)
    if floor:
        axes.axhline(floor, color="0.5", linestyle=":", label=f"entropy floor, {floor:.3f}")
        axes.legend(frameon=False)
    last = metrics[-1]
    axes.annotate(
        f"{last['val_bits_per_byte']:.3f}",
        (last["step"], last["val_bits_per_byte"]),
        textcoords="offset points",
        xytext=(0, 6),
        ha="right",
    )
    axes.set(title=f"{title}: validation", xlabel="step", ylabel="bits per byte", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


# ---- Figures and files ---------------------------------------------------------------------------


def new_figure(width, height):
    """An empty figure of so many inches. It needs no screen and is gone when nobody holds it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture_kind(out):
    """png or svg, by the file's ending. Raises UserError for any other."""
    kind = Path(out).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError(f"--out {out}: a picture's name ends in .png or .svg")
    return kind


def save(figure, out):
    """Write the figure, whole or not at all; the same figure is the same file."""
    import matplotlib

    kind = picture_kind(out)
    about = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "lineage"}), atomic_write(out) as file:
        figure.savefig(file, format=kind, dpi=150, metadata=about)
    print(out)


def draw_line(axes, x, rows, label, number):
    """A line through the mean of the seeds' rows, and a band from the lowest to the highest."""
    means = [sum(column) / len(column) for column in zip(*rows)]
    colour, dashes, marker = LOOKS[number % len(LOOKS)]
    (line,) = axes.plot(x, means, color=colour, linestyle=dashes, marker=marker, markersize=4.5)
    line.set_label(f"{label} ({len(rows)} seeds)" if len(rows) > 1 else label)
    if len(rows) > 1:
        low, high = zip(*((min(column), max(column)) for column in zip(*rows)))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    return line


def moved_apart(places, gap):
    """Rising numbers, moved apart to at least `gap` with as little movement as possible.

    Neighbours that are too close become a block around their mean, and so do blocks.
    """
    blocks = []  # [sum of place - number * gap, how many]
    for number, place in enumerate(places):
        blocks.append([place - number * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, n = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += n
    means = [total / n for total, n in blocks for _ in range(n)]
    return [mean + number * gap for number, mean in enumerate(means)]


def label_ends(axes, lines):
    """Each line's label and last value in the right margin, at its height, none over another."""
    axes.figure.draw_without_rendering()  # only now does the axes know its limits
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        ends.append((to_axes.transform((x, y))[1], x, y, line))
    ends.sort(key=lambda end: end[0])
    a_line = 13 * axes.figure.dpi / 72 / axes.get_window_extent().height
    places = moved_apart([end[0] for end in ends], a_line)
    for place, (_, x, y, line) in zip(places, ends):
        axes.annotate(
            f"{line.get_label()}: {y:.3f}", (x, y), xytext=(1.03, place),
            textcoords="axes fraction", va="center", color=darker(line.get_color()), fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5, "shrinkB": 4},
        )  # fmt: skip


def darker(colour):
    """A colour in which text can be read on white: as a line's, some are too pale for it."""
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(colour))


def logarithmic(axes, low, high):
    """A logarithmic y axis with plain ticks, from just below `low` to just above `high`."""
    low, high = low / 1.12, high * 1.12
    ticks = [m * 10**e for e in range(-3, 4) for m in (1, 1.5, 2, 3, 5, 7)]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_ticks(axes.yaxis, [tick for tick in ticks if low <= tick <= high], "{:g}".format)


def plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def log_ticks(axis, values, text):
    """Ticks at these values of a logarithmic axis, and no others."""
    axis.set_ticks(list(values), [text(value) for value in values])
    axis.set_ticks([], minor=True)


# ---- Loss curves ---------------------------------------------------------------------------------


def run_folders(name):
    """A run's folder itself, or those of all seeds of a published run's name.

    Of a published run its file in results/, where that holds the curve: a folder of its name may
    be another run's by now.
    """
    if (Path(name) / "config.json").exists():
        return [Path(name)]
    found = {}
    if re.fullmatch(r"[\w-]+", name):
        for path in (ROOT / "runs" / "published").glob(f"{name}-seed*/result.json"):
            found[path.parent.name] = path.parent
        for path in (ROOT / "results").glob(f"{name}-seed*.json"):
            if "curve" in read_result(path):
                found[path.stem] = path
    if not found:
        raise UserError(
            f"no run in {name}, and none of that name, with its curve, in results/ or"
            " runs/published/"
        )
    return [found[stem] for stem in sorted(found)]


def read_run(path):
    """(version, settings, metrics) of a run's folder, or of a published run's file in results/."""
    if path.is_file():
        result = read_result(path)
        return result["version"], LATER | result["config"], result["curve"]
    from results.saved import read_settings

    return *read_settings(path), read_metrics(path)


def read_metrics(folder):
    """The lines of a run's metrics.jsonl, up to one that is being written."""
    rows = []
    path = Path(folder) / "metrics.jsonl"
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except ValueError:
        pass
    if not rows:
        raise UserError(f"{path} holds no evaluation yet")
    return rows


def line_groups(names):
    """Runs that differ in their seed alone become one line: ({label: [metrics]}, the data)."""
    groups, data = {}, set()
    for path in dict.fromkeys(path.resolve() for name in names for path in run_folders(name)):
        version, settings, metrics = read_run(path)
        data.add(settings.get("data"))
        fixed = {key: value for key, value in settings.items() if key not in NOT_THE_LINE}
        key = json.dumps([version, fixed], sort_keys=True)
        groups.setdefault(key, []).append((version, path, metrics))
    if len(data) > 1:
        raise UserError(f"runs of different data don't compare: {', '.join(map(str, data))}")
    versions = [members[0][0] for members in groups.values()]
    lines = {}
    for members in groups.values():
        version, path, _ = members[0]
        name = re.sub(r"-seed\d+(\.json)?$", "", path.name)
        label = version if versions.count(version) == 1 else name
        label = label if label not in lines else str(path)
        lines[label] = [metrics for _, _, metrics in members]
    return lines, data.pop()


def curves_figure(lines, x="steps", floor=None):
    """Bits per byte of the validation split; lines: {label: [metrics of each seed]}.

    Of seeds whose runs differ in length, the part that all have. The seconds are their mean.
    """
    figure = new_figure(8.5, 4.8)
    axes = figure.subplots()
    key, unit, name = AXES[x]
    drawn = []
    for number, (label, runs) in enumerate(lines.items()):
        n = min(map(len, runs))
        xs = [sum(run[i][key] for run in runs) / len(runs) / unit for i in range(n)]
        ys = [[row["val_bits_per_byte"] for row in run[:n]] for run in runs]
        drawn.append(draw_line(axes, xs, ys, label, number))
    values = [value for line in drawn for value in line.get_ydata()]
    logarithmic(axes, min(values + [floor or min(values)]), max(values))
    if floor:
        axes.axhline(floor, color="0.4", linestyle=(0, (1, 3)), linewidth=1)
        axes.annotate(f"entropy floor: {floor:.3f}", (0, floor), xytext=(4, 3), fontsize=9,
                      xycoords=("axes fraction", "data"), textcoords="offset points",
                      color="0.3")  # fmt: skip
    axes.set(xlabel=name, ylabel="validation, bits per byte (logarithmic)")
    axes.set_xlim(left=0)
    plain(axes)
    label_ends(axes, drawn)
    return figure


def curves(
    runs: tuple[str, ...],
    x: Literal["steps", "tokens", "seconds"] = "steps",
    out: str = "curves.png",
):
    """Loss curves of several runs; runs that differ in the seed alone are one line with a band.

    Args:
        runs: run folders, or names of published runs, as v2-sample
        x: what the curves go along
        out: the picture, .png or .svg
    """
    picture_kind(out)
    if not runs:
        raise UserError("give the folders or names of runs: python -m results.plots curves runs/v2")
    lines, data = line_groups(runs)
    floor = load_corpus("sample").floor["validation"] if data == "sample" else None
    save(curves_figure(lines, x, floor), out)


# ---- Tables as pictures --------------------------------------------------------------------------


def context_figure(rows):
    """Bits per byte against the windows' length, side by side and sliding.

    rows: {label: [a seed's `extrapolation`, ...]}, as v4's result.json holds them.
    """
    figure = new_figure(11, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"side_by_side": "side by side: does more context help?",
              "sliding": "sliding by half: does far context harm?"}  # fmt: skip
    for axes, (kind, title) in zip(panels, titles.items()):
        drawn, lengths = [], {}
        for number, (label, seeds) in enumerate(rows.items()):
            n = min(map(len, seeds))
            x = [row["context"] for row in seeds[0][:n]]
            lengths |= {row["context"]: row["times"] for row in seeds[0]}
            ys = [[row[kind] for row in seed[:n]] for seed in seeds]
            drawn.append(draw_line(axes, x, ys, label, number))
        axes.set_xscale("log", base=2)
        log_ticks(axes.xaxis, sorted(lengths), lambda n, of=lengths: f"{n}\n{of[n]}×")
        axes.set(title=title, xlabel="context, tokens and times the training context")
        axes.margins(y=0.12)
        plain(axes)
    panels[0].set_ylabel("validation, bits per byte")
    values = [y for axes in panels for line in axes.lines for y in line.get_ydata()]
    if max(values) > 3 * min(values):  # what breaks down far out would flatten all the others
        logarithmic(panels[0], min(values), max(values))
        panels[0].set_ylabel("validation, bits per byte (logarithmic)")
    for axes in panels:
        label_ends(axes, axes.lines)
    return figure


def context(out: str = "context.png"):
    """v4's loss against the length of context, for each kind of position that is in results/.

    Args:
        out: the picture, .png or .svg
    """
    picture_kind(out)
    rows = {
        label: [r["extrapolation"] for r in load_results(name).values() if r.get("extrapolation")]
        for label, name in POSITIONS
    }
    rows = {label: seeds for label, seeds in rows.items() if seeds}
    if not rows:
        raise UserError("results/ has no run of v4 with losses beyond the training context")
    save(context_figure(rows), out)


def vocabulary_figure(rows):
    """Bits per byte against the size of the vocabulary; rows: {version: {size: [of each seed]}}."""
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    drawn = []
    for number, (version, sizes) in enumerate(rows.items()):
        x, n = sorted(sizes), min(map(len, sizes.values()))
        seeds = [[sizes[size][seed] for size in x] for seed in range(n)]
        drawn.append(draw_line(axes, x, seeds, version, number))
    every = sorted({size for sizes in rows.values() for size in sizes})
    log_ticks(axes.xaxis, every, "{:,}".format)
    axes.set(xlabel="vocabulary, tokens (logarithmic)", ylabel="validation, bits per byte")
    axes.margins(y=0.12)
    plain(axes)
    label_ends(axes, drawn)
    return figure


def vocabulary(out: str = "vocabulary.png"):
    """Bits per byte against vocabulary size, from results/ with names like v1-sample-vocab-512.

    Args:
        out: the picture, .png or .svg
    """
    picture_kind(out)
    rows = {}
    for path in sorted((ROOT / "results").glob("*-vocab-*-seed*.json")):
        result = read_result(path)
        sizes = rows.setdefault(path.name.partition("-vocab-")[0].replace("-", " on ", 1), {})
        size = result["tokenizer"]["vocab_size"]  # what it has: BPE may stop before what was asked
        sizes.setdefault(size, []).append(result["val_bits_per_byte"])
    if not rows:
        raise UserError("results/ has no run with another vocabulary (NAME-vocab-SIZE-seedN.json)")
    save(vocabulary_figure(rows), out)


def readme():
    """Draw the README's pictures again: curves.svg, context.svg and vocabulary.svg in results/."""
    versions = [v for v in ORDER if v != "v1_1"]  # its curve is v1's
    folder = ROOT / "results"
    curves([f"{version}-sample" for version in versions], "seconds", folder / "curves.svg")
    context(folder / "context.svg")
    vocabulary(folder / "vocabulary.svg")


def main():
    from results.inside import attention, embeddings, predictions

    commands = {"curves": curves, "context": context, "vocabulary": vocabulary, "readme": readme,
                "attention": attention, "predictions": predictions,
                "embeddings": embeddings}  # fmt: skip
    run_command(commands, __doc__)


if __name__ == "__main__":
    run_main(main)
