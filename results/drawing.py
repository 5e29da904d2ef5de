"""What all pictures share: colours, fonts, labels that don't overlap, and reproducible files."""

import contextlib
import functools
import hashlib
import re
from pathlib import Path

from common.errors import UserError
from common.files import atomic_write
from results.store import versions

import matplotlib
import msgspec
from matplotlib import font_manager, ft2font
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

# As bright as one another, so that each can be seen on white and on black (3:1 and more).
COLOURS = "#777777 #2b7bba #d55e00 #00936b #b05a9e #9a7400 #c8374f #6b6ecf".split()
# Lines differ in dashes and markers too, so that prints without colour can be read.
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (7, 3))]
MARKERS = "o s ^ D v P X *".split()
FONT = "DejaVu Sans"  # comes with matplotlib


def colour(version):
    """A version's colour, the same in every picture and on the page; None of what is no version."""
    names = versions()
    return COLOURS[names.index(version) % len(COLOURS)] if version in names else None


def darker(colour):
    """A colour in which text can be read on white: as a line's, some are too pale for it."""
    return tuple(0.6 * part for part in to_rgb(colour))


# ---- Style and fonts -----------------------------------------------------------------------------


@contextlib.contextmanager
def style(slide=False):
    """matplotlib's own defaults for a while, whatever the user's are; large type for a slide."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        large = {"font.size": 16, "lines.linewidth": 2.5, "lines.markersize": 7}
        small = {"font.size": 10, "lines.markersize": 4.5}
        common = {"font.family": [FONT], "svg.hashsalt": "lineage", "legend.frameon": False}
        common |= {"text.parse_math": False}  # a $ is a $
        common |= {"axes.spines.top": False, "axes.spines.right": False}
        matplotlib.rcParams.update(common | (large if slide else small))
        yield


def em():
    """The present font size in inches."""
    return matplotlib.rcParams["font.size"] / 72


@functools.cache
def glyphs(path):
    """The characters that a font file can draw. The empty set where it can't be read."""
    try:
        return frozenset(map(chr, ft2font.FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def with_fonts(texts):
    """Choose installed fonts for these texts, for the present style; returns the texts.

    A character that no installed font has is written as its code point: never an empty box.
    """
    missing = set("".join(texts)) - glyphs(font_manager.findfont(FONT))
    families, manager = [FONT], font_manager.fontManager
    if missing:  # matplotlib's list of fonts is older than some fonts may be
        for path in {*font_manager.findSystemFonts()} - {font.fname for font in manager.ttflist}:
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                manager.addfont(path)
    for font in sorted(manager.ttflist, key=lambda font: (font.name, font.fname)):
        usable = font.weight == 400 and font.style == "normal" and "Last Resort" not in font.name
        if missing and usable and missing & glyphs(font.fname):
            families.append(font.name)
            missing -= glyphs(font.fname)
    matplotlib.rcParams["font.family"] = families
    if not missing:
        return list(texts)
    unknown = re.compile(f"[{re.escape(''.join(missing))}]+")
    return [unknown.sub(code_points, text) for text in texts]


def code_points(match):
    """The characters of a regular expression's match by their numbers: <U+4F60 597D>."""
    return f"<U+{' '.join(f'{ord(c):04X}' for c in match[0])}>"


def token_labels(tokenizer, ids):
    """Each id as a label: spaces and line breaks as signs, bytes that are no text in hex."""
    labels = []
    for i in map(int, ids):
        text = tokenizer.decode([i])
        if "\ufffd" in text and isinstance(tokenizer.vocab[i], bytes):
            text = f"<{tokenizer.vocab[i].hex()}>"  # a part of a character
        text = text.replace("\n", "↵").replace(" ", "␣")
        labels.append("".join(c if c.isprintable() else f"<{ord(c):02x}>" for c in text))
    return labels


# ---- Figures and files ---------------------------------------------------------------------------


def new_figure(width, height):
    """An empty figure of so many inches. It needs no screen and no clean-up."""
    return Figure(figsize=(width, height), layout="constrained")


def picture_kind(out):
    """png or svg, by the file's ending. Raises UserError for any other."""
    kind = Path(out).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError(f"--out {out}: a picture's name ends in .png or .svg")
    return kind


def draw(out, slide, make, *data):
    """Make a figure of the data and write it, whole or not at all; prints the file's name.

    The same data is the same file. An SVG holds `fingerprint(data)` in its metadata where the data
    can be written as JSON, so that one that is out of date is noticed.
    """
    kind = picture_kind(out)
    about = {"Date": None, "Description": fingerprint(data)} if kind == "svg" else None
    with style(slide):
        figure = make(*data)
        with atomic_write(out) as file:
            figure.savefig(file, format=kind, dpi=150, metadata=about)
    print(out)


def fingerprint(data):
    """SHA-256 of the data as JSON, with a word before it. "" where it can't be written so."""
    try:
        text = msgspec.json.encode(data, order="deterministic")
    except TypeError:
        return ""
    return f"data sha256 {hashlib.sha256(text).hexdigest()}"


# ---- Lines and their labels ----------------------------------------------------------------------


def draw_line(axes, x, rows, label, number, colour=None):
    """A line through the mean of the seeds' rows, and a band from the lowest to the highest.

    x: (N,); rows: (N,) for each seed. number: which of the figure's lines it is, for its dashes,
    its marker and, where none is given, its colour.
    """
    means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
    looks = {"color": colour or COLOURS[(number + 1) % len(COLOURS)]}
    looks |= {"linestyle": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)]}
    (line,) = axes.plot(x, means, **looks)
    line.set_label(f"{label} ({len(rows)} seeds)" if len(rows) > 1 else label)
    if len(rows) > 1:
        low, high = zip(*((min(c), max(c)) for c in zip(*rows, strict=True)), strict=True)
        axes.fill_between(x, low, high, color=looks["color"], alpha=0.2, linewidth=0)
    return line


def moved_apart(places, gap):
    """Rising numbers, moved apart to at least `gap` with as little movement as possible."""
    from scipy.optimize import isotonic_regression

    steps = [number * gap for number in range(len(places))]
    found = isotonic_regression([place - step for place, step in zip(places, steps, strict=True)])
    return [float(place) + step for place, step in zip(found.x, steps, strict=True)]


def label_ends(axes, lines, values=None):
    """Each line's label and last value in the right margin, at its height, none over another.

    values: what is written in place of the lines' own last values.
    """
    axes.figure.draw_without_rendering()  # only now does the axes know its limits
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line, value in zip(lines, values or [None] * len(lines), strict=True):
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        text = f"{line.get_label()}: {y if value is None else value:.3f}"
        ends.append((to_axes.transform((x, y))[1], x, y, line, text))
    ends.sort(key=lambda end: end[0])
    one_line = 1.3 * em() * axes.figure.dpi / axes.get_window_extent().height
    places = moved_apart([end[0] for end in ends], one_line)
    for place, (_, x, y, line, text) in zip(places, ends, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            color=darker(line.get_color()),
            fontsize="medium",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5, "shrinkB": 4},
        )


def logarithmic(axes, low, high):
    """A logarithmic y axis with plain ticks, from just below `low` to just above `high`."""
    low, high = low / 1.12, high * 1.12
    ticks = [m * 10**e for e in range(-3, 4) for m in (1, 1.5, 2, 3, 5, 7)]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_ticks(axes.yaxis, [tick for tick in ticks if low <= tick <= high], "{:g}".format)


def log_ticks(axis, values, text):
    """Ticks at these values of a logarithmic axis, and no others."""
    axis.set_ticks(list(values), [text(value) for value in values])
    axis.set_ticks([], minor=True)


def horizontal_grid(axes):
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
