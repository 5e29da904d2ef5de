"""Loss curves as SVG, with colours that the page's styles decide and parts that can be hidden."""

import math
import statistics

from results.drawing import colour, moved_apart
from results.intervals import mean
from results.store import entropy, load_results, versions

LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 52, 620, 12, 372, 720, 420  # of the plot, of the picture
# How the numbers at an axis begin: the first of these of which four have room.
DIGITS = ((1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 7), tuple(n / 5 for n in range(5, 50)))
LINE = 17  # height of a line of text
DASHES = ("none", "9 4", "9 3 2 3", "2 3", "14 4", "4 4", "14 3 3 3", "1 5")  # for black and white


def curves(corpus):
    """What the template needs to draw the published curves of a corpus, or None without any.

    Bits per byte of the validation split against tokens read, both logarithmic: the mean of the
    seeds, and the band from the lowest to the highest.
    """
    found = {version: curve(f"{version}-{corpus}") for version in versions()}
    found = {version: each for version, each in found.items() if each}
    if not found:
        return None
    bound = entropy() if corpus == "sample" else None
    tokens = [point[0] for each in found.values() for point in each["points"]]
    bits = [point[k] for each in found.values() for point in each["points"] for k in (2, 3)]
    x = scale(min(tokens), max(tokens), LEFT, RIGHT)
    y = scale(max(bits) * 1.05, min([*bits, bound or math.inf]) / 1.1, TOP, BOTTOM)
    ends = sorted((y(each["points"][-1][1]), version) for version, each in found.items())
    places = moved_apart([end for end, _ in ends], LINE)
    labels = {version: place for place, (_, version) in zip(places, ends, strict=True)}
    lines = []
    for number, (version, each) in enumerate(found.items()):
        points = [(x(n), y(mean), y(low), y(high)) for n, mean, low, high in each["points"]]
        band = [(px, low) for px, _, low, _ in points]
        band += [(px, high) for px, _, _, high in reversed(points)]
        lines.append(
            {
                "version": version,
                "colour": colour(version),
                "dashes": DASHES[number % len(DASHES)],
                "line": path([point[:2] for point in points]),
                "band": path(band) if each["seeds"] > 1 else "",
                "points": [
                    (f"{px:.1f}", f"{py:.1f}", f"{n:,.0f} tokens: {mean:.3f}")
                    for (px, py, *_), (n, mean, *_) in zip(points, each["points"], strict=True)
                ],
                "end": (f"{points[-1][0]:.1f}", f"{points[-1][1]:.1f}", f"{labels[version]:.1f}"),
                "label": f"{version} {each['final']:.3f}",
            }
        )
    return {
        "lines": lines,
        "bound": bound and (f"{y(bound):.1f}", f"{bound:.3f}"),
        "x_ticks": [(f"{x(n):.1f}", short(n)) for n in ticks(tokens)],
        "y_ticks": [(f"{y(n):.1f}", f"{n:g}") for n in ticks([*bits, bound or bits[0]])],
    }


def curve(name):
    """A published curve: {"points": [(tokens, mean, lowest, highest), ...], "seeds", "final"}.

    None where no seed has one. The points are those that all seeds have. Before the first step
    nothing is read: that point has no place on a logarithmic axis.
    """
    runs = {seed: run for seed, run in load_results(name).items() if run.curve}
    rows = [{each.tokens: each.val_bits_per_byte for each in run.curve} for run in runs.values()]
    points = []
    for tokens in sorted(set.intersection(*map(set, rows))) if rows else []:
        bits = [row[tokens] for row in rows]
        if tokens:
            points.append((tokens, statistics.fmean(bits), min(bits), max(bits)))
    if not points:
        return None
    return {"points": points, "seeds": len(runs), "final": mean(runs, "val_bits_per_byte")}


def scale(low, high, start, end):
    """A function from low … high, on a logarithmic axis, to start … end."""
    width = math.log(high / low) or 1
    return lambda value: start + (end - start) * math.log(value / low) / width


def ticks(values):
    """Round numbers from the lowest to the highest of some values, four at least if there are."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    for digits in DIGITS:
        numbers = [m * 10.0**e for e in range(low, high + 1) for m in digits]
        found = [n for n in numbers if min(values) <= n <= max(values)]
        if len(found) >= 4:
            break
    return found


def short(n):
    """20 k, 5 M."""
    return f"{n / 1e6:g} M" if n >= 1e6 else f"{n / 1e3:g} k"


def path(points):
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
