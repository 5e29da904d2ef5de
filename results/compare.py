"""Two published runs side by side, and a run of one's own beside the published ones.

The commands are `python -m results.tables compare v2 v3` and `python -m results.tables check
runs/v2`.
"""

import ast
import math
import re
import shutil
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path

from results import tables as results
from common.cli import LATER, SAFE_TO_CHANGE
from common.errors import UserError
from common.files import read_json
from results.tables import code_sha256, delta, diff_size, load_results, mean_and_deviation
from results.tables import read_result, spread

# Settings that change nothing of what a run reaches, or that have to differ.
NO_DIFFERENCE = {*SAFE_TO_CHANGE, "seed"} - {"steps"}
WIDE_ENOUGH = 80  # columns of a terminal from which on two samples stand side by side


# ---- Two published runs --------------------------------------------------------------------------


def compare(before: str, after: str, data: str = "sample"):
    """What changed from one published run to another: the idea, the settings, the loss, the sample.

    Beneath "settings", – is what one of the two does not have.

    Args:
        before: a version, as v2, or the name of a published run, as v2-sample-dot
        after: the one that is set beside it
        data: the corpus, where only versions are given: sample or wikitext-2
    """
    for name in (before, after):
        if re.search(r"[/\\]", name):
            raise UserError(f"{name} is a path; compare takes the names of published runs, as v2:"
                            f" for a run of your own, python -m results.tables check {name}")
    names = [name.removesuffix(".py") for name in (before, after)]
    names = [name if "-" in name else f"{name}-{data}" for name in names]
    first, second = (published(name) for name in names)
    width = shutil.get_terminal_size().columns
    print(comparison(names, first, second, width))


def published(name):
    """The results of a published run's name. Raises UserError, with the names there are."""
    found = load_results(name)
    if not found:
        there = ", ".join(published_names()) or "none yet"
        make = f" (make it: python -m results.tables publish --only {name})"
        make = make if name in results.PUBLISHED else ""
        raise UserError(f"no published run is called {name}{make}; there are: {there}")
    return found


def published_names():
    """The names of all published runs, each once, in the order of the versions."""
    paths = (results.ROOT / "results").glob("*-seed*.json")
    names = {re.sub(r"-seed\d+\.json$", "", path.name) for path in paths}
    known = [f"{version}-" for version in results.ORDER]
    order = {name: i for i, start in enumerate(known) for name in names if name.startswith(start)}
    return sorted(order, key=lambda name: (order[name], name))


def comparison(names, before, after, width):
    """The text that `compare` prints; before and after are {seed: result}."""
    a, b = before[min(before)], after[min(after)]
    if any(a["data"].get(key) != b["data"].get(key) for key in ("name", "sha256")):
        raise UserError(f"{names[0]} and {names[1]} are of different texts: they don't compare")
    lines = []
    if a["version"] != b["version"]:
        size = diff_size(a["version"], b["version"])
        lines += [f"diff {a['version']}.py {b['version']}.py: {size} lines", heading(b["version"])]
    else:
        lines += [f"two runs of {heading(a['version'])}"]
    lines += ["", "settings:"]
    changes = differing(a["config"], b["config"], {"out_dir", "seed"})
    lines += [f"  {key}: {x} → {y}" for key, x, y in changes] or ["  the same"]
    claim = delta(before, after) or "no claim: fewer than three seeds in common"
    lines += ["", "bits per byte, mean ± standard deviation (seeds):"]
    lines += [f"  {name}: {spread(found)}" for name, found in zip(names, (before, after))]
    lines += [f"  Δ with its 95 % interval: {claim}", ""]
    seeds = sorted(set(before) & set(after)) or [min(before)]
    pair = (before[seeds[0]], after.get(seeds[0], b))
    heads = [f"{name}, seed {r['seed']}" for name, r in zip(names, pair)]
    return "\n".join(lines) + "\n" + beside(heads, [r["sample"] for r in pair], width)


def heading(version):
    """The first line of a version's docstring."""
    text = (results.ROOT / f"{version}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or version).splitlines()[0]


def differing(a, b, leave_out):
    """(key, value in a, value in b) where two dictionaries differ; – is what one doesn't have."""
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in leave_out]
    pairs = [(key, a.get(key, "–"), b.get(key, "–")) for key in keys]
    return [(key, x, y) for key, x, y in pairs if x != y]


def beside(heads, texts, width):
    """Two texts in two columns of a terminal, or below each other where it is narrow."""
    side_by_side = width >= WIDE_ENOUGH
    column = (width - 3) // 2 if side_by_side else max(width, 20)
    wrapped = []
    for head, text in zip(heads, texts):
        lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, column)
                 or [""]]  # fmt: skip
        wrapped.append([head, "-" * min(column, len(head)), *lines])
    if not side_by_side:
        return "\n\n".join("\n".join(lines) for lines in wrapped)
    rows = zip_longest(*wrapped, fillvalue="")
    return "\n".join(f"{left:<{column}} | {right}".rstrip() for left, right in rows)


# ---- A run of one's own --------------------------------------------------------------------------


def check(run: str):
    """Does a run agree with the published ones of its version, corpus and settings?

    "As expected" is a result within the 95 % prediction interval for one more run. The exit
    status is 0 then, and 1 where it is not, or where nothing published compares.

    Args:
        run: the folder of a finished run, as runs/v2
    """
    path = Path(run) if Path(run).is_file() else Path(run) / "result.json"
    if not path.exists():
        raise UserError(f"no finished run in {run}: {_what_to_do(run)}")
    result = read_result(path)
    script = path.with_name("script.py")
    if script.exists():  # its code: comments are no difference
        result["environment"].setdefault("code_sha256", code_sha256(script))
    agrees, text = verdict(result)
    print(text)
    if not agrees:
        sys.exit(1)


def _what_to_do(run):
    """For the user of a folder without a result."""
    settings = Path(run) / "config.json"
    if settings.exists():
        version = read_json(settings, "a run's settings").get("version")
        return f"if it was stopped, go on with python {version}.py --resume --out-dir {run}"
    if Path("runs", run, "result.json").exists():
        return f"did you mean {Path('runs', run)}?"
    return f"make one, python v2.py --out-dir {run}"


def verdict(result):
    """(True where the result is as expected, what there is to say about it)."""
    version, data = result["version"], result["data"].get("name")
    groups = {}
    for name in published_names():
        if name.startswith(f"{version}-"):
            found = load_results(name)
            if found[min(found)]["data"].get("name") == data:
                groups[name] = found
    bits = f"{result['val_bits_per_byte']:.3f}"
    if not groups:
        return False, f"{bits} bits per byte; no run of {version} on {data} is published"
    settings = {
        name: differing(
            LATER | found[min(found)]["config"], LATER | result["config"], NO_DIFFERENCE
        )
        for name, found in groups.items()
    }
    name = min(groups, key=lambda name: len(settings[name]))
    found = groups[name]
    said = f"{bits} bits per byte, published {spread(found)}"
    if settings[name]:
        lines = [f"{said} with other settings: they don't compare. From {name} differ:"]
        lines += [f"  {key}: {mine}, published {theirs}" for key, theirs, mine in settings[name]]
        return False, "\n".join(lines)
    if found[min(found)]["data"].get("sha256") != result["data"].get("sha256"):
        return False, f"{said} on another text of the name {data}: they don't compare"
    interval = prediction_interval(results.bits_by_seed(found).values())
    if interval is None:
        return False, f"{said}: fewer than three published runs say too little of how they vary"
    low, high = interval
    expected = f"one more run is expected from {low:.3f} to {high:.3f}, 19 times out of 20"
    if result["seed"] in found:
        same = found[result["seed"]]["val_bits_per_byte"]
        expected += f"; the published run of seed {result['seed']} had {same:.3f}"
    if low <= result["val_bits_per_byte"] <= high:
        return True, f"{said}: as expected ({expected})"
    side = "higher" if result["val_bits_per_byte"] > high else "lower"
    lines = [f"{said}: {side} than expected ({expected})", *causes(result, found)]
    return False, "\n".join(lines)


def prediction_interval(values):
    """Where one more value of the same normal distribution lies with 95 % probability.

    mean ± t s √(1 + 1/n), Student's t with n - 1 degrees of freedom; None for fewer than three.
    """
    from scipy.stats import t

    values = list(values)
    if len(values) < 3:
        return None
    mean, deviation = mean_and_deviation(values)
    half = t.ppf(0.975, len(values) - 1) * deviation * math.sqrt(1 + 1 / len(values))
    return mean - half, mean + half


RECORDED = {
    "environment.code_sha256": "the code of {version}.py",
    "tokenizer.sha256": "the vocabulary",
    "environment.torch": "torch",
    "environment.dtype": "the type of the numbers",
    "environment.device": "the device",
    "environment.threads": "threads",
    "environment.python": "Python",
}


def short(value):
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value


def causes(result, found):
    """Lines with what is recorded of a run and is so in none of the published ones."""
    lines = []
    for key, what in RECORDED.items():
        part, _, key = key.partition(".")
        mine, *theirs = (
            str(r.get(part, {}).get(key, "not recorded")) for r in (result, *found.values())
        )
        if mine not in theirs:
            what = what.format(version=result["version"])
            lines.append(f"  {what}: {short(mine)}, published {', '.join(map(short, {*theirs}))}")
    if lines:
        return ["look at what differs from the published runs:", *lines]
    return ["nothing that is recorded differs: look at a run with another --seed"]
