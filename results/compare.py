"""Two runs compared, and a run of your own compared with the published ones."""

import difflib
import re
import shutil
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from common.cli import read_config
from common.config import SAFE_TO_CHANGE
from common.errors import UserError
from results import plan, store
from results.commands import RunName
from results.intervals import bits_by_seed, delta, lossy_mark, prediction_interval, spread
from results.scripts import code_diff, code_sha256, diff_size, idea
from results.store import load_results, published_names, read_result

# Settings that don't change what is learned, or that have to differ. What the number format came
# to stands among the causes of a difference.
NO_DIFFERENCE = {*SAFE_TO_CHANGE, "seed", "dtype"} - {"steps"}
WIDE_ENOUGH = 80  # columns of a terminal from which on two samples stand side by side


class Side(NamedTuple):
    """One of the two that are compared."""

    name: str
    results: dict  # {seed: Result}
    script: Path

    @property
    def first(self):
        return self.results[min(self.results)]


# ---- Two runs ------------------------------------------------------------------------------------


def compare(before: RunName, after: RunName, data: str = "sample"):
    """What changed from one run to another: the idea, code, settings, loss and sample.

    The code is a diff without docstrings, comments and settings, which are listed: – is what one
    of the two does not have.

    Args:
        before: a version, as v2, the name of a published run, as v2-sample-dot, or the folder of
            a finished run, as runs/v2
        after: the one to compare with it
        data: the corpus of versions: sample or wikitext-2
    """
    sides = [_side(name, data) for name in (before, after)]
    print(comparison(*sides, shutil.get_terminal_size().columns))


def _side(name, data):
    """The Side that a name on the command line means. Raises UserError."""
    files = Path(name, "result.json"), Path(name, "config.json")
    if re.search(r"[/\\]", name) or any(file.exists() for file in files):
        path = _result_of(name)
        result, own = read_result(path), path.with_name("script.py")
        script = own if own.exists() else store.script_of(result.version)
        return Side(name, {result.seed: result}, script)
    name = name.removesuffix(".py")
    name = name if "-" in name else f"{name}-{data}"
    results = load_results(name) if re.fullmatch(r"[\w.-]+", name) else {}
    run = plan.planned(name)
    if not results:
        make = f" (make it: python -m results publish --only {name})" if run else ""
        near = difflib.get_close_matches(name, published_names(), n=4, cutoff=0)
        there = ", ".join(near) or "none yet"
        raise UserError(f"no published run is called {name}{make}; near to it are: {there}")
    script = run.script_path() if run else store.script_of(name.partition("-")[0])
    return Side(name, results, script)


def comparison(before, after, width):
    """The text that `compare` prints of two Sides, for a terminal of `width` columns."""
    a, b = before.first, after.first
    if (a.data.name, a.data.sha256) != (b.data.name, b.data.sha256):
        raise UserError(f"{before.name} and {after.name} are of different texts: no comparison")
    if a.version == b.version:
        lines = [f"two runs of {idea(b.version)}"]
    else:
        size = diff_size(a.version, b.version)
        lines = [f"diff {a.version}.py {b.version}.py: {size} lines", idea(b.version)]
    code = code_diff(before.script, after.script) or "the same"
    changes = differing(a.config, b.config, {"out_dir", "seed"})
    claim = delta(before.results, after.results) or "no claim: fewer than three seeds in common"
    lines += ["", "code:", textwrap.indent(code, "  "), "", "settings:"]
    lines += [f"  {key}: {x} → {y}" for key, x, y in changes] or ["  the same"]
    lines += ["", "bits per byte, mean ± standard deviation (seeds):"]
    lines += [f"  {side.name}: {spread(side.results)}" for side in (before, after)]
    lines += [f"  Δ with its 95 % interval: {claim}", ""]
    seed = min(set(before.results) & set(after.results), default=None)
    pair = [side.results.get(seed, side.first) for side in (before, after)]
    names = (before.name, after.name)
    heads = [f"{name}, seed {r.seed}" for name, r in zip(names, pair, strict=True)]
    return "\n".join(lines) + "\n" + side_by_side(heads, [r.sample for r in pair], width)


def differing(a, b, leave_out):
    """(key, value in a, value in b) where two dictionaries differ; – is what one doesn't have."""
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in leave_out]
    pairs = [(key, a.get(key, "–"), b.get(key, "–")) for key in keys]
    return [(key, x, y) for key, x, y in pairs if x != y]


def side_by_side(heads, texts, width):
    """Two texts in two columns of a terminal, or below each other where it is narrow."""
    wide = width >= WIDE_ENOUGH
    column = (width - 3) // 2 if wide else max(width, 20)
    wrapped = []
    for head, text in zip(heads, texts, strict=True):
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, column) or [""]]
        wrapped.append([head, "-" * min(column, len(head)), *lines])
    if not wide:
        return "\n\n".join("\n".join(lines) for lines in wrapped)
    rows = zip_longest(*wrapped, fillvalue="")
    return "\n".join(f"{left:<{column}} | {right}".rstrip() for left, right in rows)


# ---- A run of your own ---------------------------------------------------------------------------


def check(run: RunName):
    """Does a run agree with the published ones of its version, corpus and settings?

    "As expected" is a result within the 95 % prediction interval for one more run. The exit
    status is 0 then, and 1 where it is not, or where nothing published compares.

    Args:
        run: the folder of a finished run, as runs/v2
    """
    path = _result_of(run)
    result = read_result(path)
    script = path.with_name("script.py")
    if script.exists() and result.environment.code_sha256 is None:
        result.environment.code_sha256 = code_sha256(script)
    agrees, text = verdict(result)
    print(text)
    if not agrees:
        sys.exit(1)


def _result_of(run):
    """The result file of a run's folder, or that file itself. Raises UserError without one."""
    path = Path(run) if Path(run).is_file() else Path(run) / "result.json"
    if path.exists():
        return path
    if not (Path(run) / "config.json").exists():
        raise store.no_run(run, "finished run")
    version, _ = read_config(Path(run) / "config.json")
    advice = f"if it was stopped, go on with python {version}.py --resume --out-dir {run}"
    raise UserError(f"no finished run in {run}: {advice}")


def verdict(result):
    """(True where the result is as expected, what there is to say about it)."""
    version, data = result.version, result.data.name
    bits = f"{result.val_bits_per_byte:.3f}{lossy_mark([result])} bits per byte"
    groups = {}
    for name in published_names():
        found = load_results(name)
        first = found[min(found)]
        if (first.version, first.data.name) == (version, data):
            groups[name] = found
    if not groups:
        return False, f"{bits}; no run of {version} on {data} is published"
    settings = {
        name: differing(found[min(found)].config, result.config, NO_DIFFERENCE)
        for name, found in groups.items()
    }
    name = min(groups, key=lambda name: len(settings[name]))
    found = groups[name]
    bits += f", published {spread(found)}"
    if settings[name]:
        lines = [f"{bits} with other settings: they don't compare. Unlike {name}:"]
        lines += [f"  {key}: {mine}, published {theirs}" for key, theirs, mine in settings[name]]
        return False, "\n".join(lines)
    if found[min(found)].data.sha256 != result.data.sha256:
        return False, f"{bits} on another text of the name {data}: they don't compare"
    interval = prediction_interval(bits_by_seed(found).values())
    if interval is None:
        return False, f"{bits}: fewer than three published runs say too little of how they vary"
    low, high = interval
    expected = f"one more run is expected from {low:.3f} to {high:.3f}, 19 times out of 20"
    if result.seed in found:
        same = found[result.seed].val_bits_per_byte
        expected += f"; the published run of seed {result.seed} had {same:.3f}"
    if low <= result.val_bits_per_byte <= high:
        return True, f"{bits}: as expected ({expected})"
    side = "higher" if result.val_bits_per_byte > high else "lower"
    lines = [f"{bits}: {side} than expected ({expected})", *causes(result, found.values())]
    return False, "\n".join(lines)


def causes(result, published):
    """Lines with what is recorded of a run and is so in none of the published ones."""

    def recorded(r):
        e = r.environment
        return {
            f"the code of {r.version}.py": e.code_sha256,
            "the vocabulary": r.tokenizer.sha256,
            "the number format (dtype)": e.dtype,
            "torch": e.torch,
            "the device": e.device,
            "the processor": e.processor,
            "threads": e.threads,
            "Python": e.python,
        }

    lines = []
    for what, mine in recorded(result).items():
        theirs = {_short(recorded(r).get(what)) for r in published}
        if _short(mine) not in theirs:
            lines.append(f"  {what}: {_short(mine)}, published {', '.join(sorted(theirs))}")
    if lines:
        return ["look at what differs from the published runs:", *lines]
    return ["nothing that is recorded differs: look at a run with another --seed"]


def _short(value):
    """A recorded value as text, of a hash its beginning."""
    text = "not recorded" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
