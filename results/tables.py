"""Comparing runs: the local ones' table, and the published ones that the README's tables show.

    python -m results.tables                     the local runs' table
    python -m results.tables publish             make the published runs again, resuming
    python -m results.tables readme              rewrite the README's tables from results/
    python -m results.tables compare v2 v3       what changed from one published run to another
    python -m results.tables check runs/v2       does a run of your own agree with the published?
    python -m results.tables references          count the tables' reference rows again

A published run is one JSON file in results/: the run's result.json, and beside its keys `curve`,
the rows of metrics.jsonl; of the versions themselves also `probes`, `diagnostics` and `heldout`,
what the commands of these names found.
"""

import ast
import contextlib
import difflib
import hashlib
import json
import math
import statistics
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

from common.cli import LATER, run_command, run_main
from common.errors import UserError
from common.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["v0", "v1", "v1_1", "v2", "v3", "v4"]

PLAIN = {"vocab-size": 512, "split-pattern": "whitespace"}  # v0's tokenizer
# Real text needs more of everything than the sample.
WIKITEXT = {"data": "wikitext-2", "vocab-size": 4096}
TABLE = WIKITEXT | {"steps": 250, "eval-every": 125}
BLOCK = WIKITEXT | {"n-head": 4, "batch-size": 8, "steps": 2000, "eval-every": 1000}
CONTROL = WIKITEXT | {"batch-size": 8, "grad-accum": 1, "steps": 2000, "eval-every": 1000}
STACK = BLOCK | {"learning-rate": 0.003, "mimetic-start": False, "dtype": "bfloat16"}
SHORT = STACK | {"steps": 500, "eval-every": 500}
LONG = STACK | {"n-layer": 4, "steps": 3600, "eval-every": 600}
MORE = {"data": "more.txt", "dtype": "bfloat16"}
MORE |= {"steps": 13500, "eval-every": 4500}
# What makes that text, whose stories are read about twice.
MAKE_MORE = "data/world.py --bytes 30000000 --seed 2 --recaps --out more.txt".split()
VOCABULARIES = (512, 1024, 4096, 16384)


def flags(settings):
    """Settings as arguments: {"n-head": 4, "compile": False} is ["--n-head", "4", "--no-compile"].
    """
    parts = [[f"--no-{key}"] if value is False else [f"--{key}", str(value)]
             for key, value in settings.items()]  # fmt: skip
    return [part for each in parts for part in each]


# What is published: name, the arguments, the seeds. A name begins with its version.
THREE, FIVE = (1, 2, 3), (1, 2, 3, 4, 5)
PUBLISHED = {
    **{f"{version}-sample": ([], FIVE) for version in ORDER},
    "v1-sample-control": (flags(PLAIN) + ["--no-end-of-text"], THREE),
    "v1_1-sample-control": (flags({"batch-size": 4, "grad-accum": 1, "steps": 2000}), THREE),
    **{f"v2-sample-{kind}": (["--attention", kind], THREE) for kind in ("dot", "mean")},
    "v4-sample-control": (["--no-mimetic-start"], THREE),
    "v3-sample-dropout": (["--dropout", "0.1"], THREE),
    **{
        f"v4-sample-{kind}": (["--position", kind], THREE)
        for kind in ("rope", "learned", "sinusoidal", "none")
    },
    "v0-wikitext-2": (["--data", "wikitext-2"], THREE),
    "v1-wikitext-2": (flags(TABLE), THREE),
    "v1_1-wikitext-2": (flags(TABLE), THREE),
    "v1_1-wikitext-2-control": (flags(CONTROL), THREE),
    "v2-wikitext-2": (flags(BLOCK), FIVE),
    "v3-wikitext-2": (flags(STACK), FIVE),
    "v4-wikitext-2": (flags(STACK), THREE),
    **{
        f"v3-wikitext-2-vocab-{size}": (flags(SHORT | {"vocab-size": size}), THREE)
        for size in VOCABULARIES
    },
    "v4-wikitext-2-long": (flags(LONG), (1,)),
    "v4-sample-long": (flags(MORE), (1,)),
}

# Word perplexities of others on WikiText-2's test split, each from the paper's own table.
ELSEWHERE = (
    "For orientation, word perplexities published for the test split: LSTM 99.3, with a continuous"
    " cache 68.9 ([Grave et al. 2016](https://arxiv.org/abs/1612.04426)); pointer sentinel LSTM"
    " 80.8 ([Merity et al. 2016](https://arxiv.org/abs/1609.07843)); AWD-LSTM 65.8"
    " ([Merity et al. 2017](https://arxiv.org/abs/1708.02182)); AWD-LSTM with a mixture of"
    " softmaxes 61.45 ([Yang et al. 2017](https://arxiv.org/abs/1711.03953)). Theirs are models of"
    " words, 33,278 of them; ours are of byte pairs, a word's probability being the product of its"
    " tokens'. What we look at when we choose settings is the validation split."
)


# ---- Files ---------------------------------------------------------------------------------------


TEXTS, NUMBERS = "version idea sample", "seed params tokens_seen val_bits_per_byte seconds"
NUMBERS += " tokens_per_second peak_rss_mb"
KINDS = {
    **dict.fromkeys(TEXTS.split(), str),
    **dict.fromkeys(["data", "config", "environment"], dict),
}


def _has_numbers(row, keys, kinds=(int, float)):
    """Whether a row is a dictionary with a finite number under each of the keys."""
    values = [row.get(key, "") for key in keys.split()] if isinstance(row, dict) else [""]
    return all(isinstance(n, kinds) and (n is None or abs(n) < 1e300) for n in values)


def _is_curve(rows):
    keys = "step tokens seconds val_bits_per_byte"
    return isinstance(rows, list) and rows != [] and all(_has_numbers(row, keys) for row in rows)


def _is_probes(found):
    kinds = found.get("kinds") if isinstance(found, dict) else None
    return (isinstance(kinds, dict) and kinds and isinstance(found.get("questions_sha256"), str)
            and all(_has_numbers(row, "n accuracy chance") for row in kinds.values()))  # fmt: skip


def _is_diagnostics(found):
    shares = "distinct_1 distinct_2 repeated_trigrams known_words punctuation"
    return (_has_numbers(found, "words prompts temperature tokens_per_second")
            and _has_numbers(found.get("source"), "words")
            and all(_has_numbers(row, shares, (int, float, type(None)))
                    for row in (found, found["source"])))  # fmt: skip


def _is_claims(about):
    found = about.get("found") if isinstance(about, dict) else None
    return (isinstance(found, dict) and _has_numbers(about, "stories seed temperature")
            and {"names", "things", "owners", "holders", "places", "unread"} == {*found}
            and all(isinstance(pair, list) and len(pair) == 2
                    and all(isinstance(n, int) and 0 <= n < 1e9 for n in pair)
                    for pair in found.values()))  # fmt: skip


def _is_extrapolation(rows):
    keys = "times side_by_side sliding"
    return isinstance(rows, list) and all(_has_numbers(row, keys) for row in rows)


def _is_environment(found):
    texts = (found.get(key) for key in ("device", "torch", "dtype"))
    return all(isinstance(text, str) for text in texts) and _has_numbers(found, "threads")


def _has_perplexity(found):
    return _has_numbers(found, "bits_per_byte") and _is_number_or_none(found.get("word_perplexity"))


def _is_number_or_none(value):
    return _has_numbers({"value": value}, "value", (int, float, type(None)))


# What a run may have beside, and whether it is whole.
EXTRAS = {"curve": _is_curve, "probes": _is_probes, "diagnostics": _is_diagnostics}
EXTRAS |= {"claims": _is_claims}
EXTRAS |= {"heldout": _has_perplexity, "extrapolation": _is_extrapolation}
EXTRAS |= {"val_word_perplexity": _is_number_or_none, "environment": _is_environment}
EXTRAS |= {"val_loss": lambda value: _has_numbers({"value": value}, "value")}
EXTRAS |= {"tokenizer": lambda about: _has_numbers(about, "vocab_size")}


def read_result(path):
    """A run's result.json as a dictionary. Raises UserError where no table can be made of it."""
    result = read_json(path, "a result file")
    wrong = [key for key, kind in KINDS.items() if not isinstance(result.get(key), kind)]
    wrong += [key for key in NUMBERS.split() if not _has_numbers(result, key)]
    known = [key for key in EXTRAS if key in result and key not in wrong]
    wrong += [key for key in known if not EXTRAS[key](result[key])]
    if wrong:
        raise UserError(f"{path} is not a whole result file: see its {', '.join(wrong)}")
    return result


def load_results(name, folder=None):
    """The published results of one name, by seed: {1: result, ...}."""
    results = {}
    for path in sorted(Path(folder or ROOT / "results").glob(f"{name}-seed*.json")):
        result = read_result(path)
        _refuse_misnamed(path, name, result)
        results[result["seed"]] = result
    return results


def _refuse_misnamed(path, name, result):
    """A file under another run's name would be counted as that run."""
    version, seed = result["version"], result["seed"]
    if version != name.partition("-")[0] or path.name != f"{name}-seed{seed}.json":
        raise UserError(f"{path} holds a run of {version} with seed {seed}: give it its own name")


def publish(only: str = "", seeds: tuple[int, ...] = (), again: bool = False):
    """Make the published runs that are missing, one after the other; a stopped run is resumed.

    Args:
        only: names that contain this alone
        seeds: these seeds alone
        again: make those in results/ again as well, but for those whose runs/published/ folder
            is here already
    """
    jobs = [
        (name, seed, args)
        for name, (args, all_seeds) in PUBLISHED.items()
        for seed in all_seeds
        if only in name and (not seeds or seed in seeds)
    ]
    if not jobs:
        raise UserError(f"no published run has {only!r} in its name and one of those seeds")
    todo = [job for job in jobs if not _is_published(*job) or _can_be_completed(*job)
            or again and not _is_of_its_folder(*job)]  # fmt: skip
    print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are there; {len(todo)} to make")
    if older := outdated(jobs):
        print(f"made by earlier code of their scripts, all or in part: {', '.join(older)}")
        print("to make such a run again, remove its file from results/")
    times, began = expected(todo), time.monotonic()
    for number, (name, seed, args) in enumerate(todo):
        print(time_left(times, number, time.monotonic() - began), flush=True)
        folder, script = _folder(name, seed), _script(name)
        print(f"[{number + 1}/{len(todo)}] {name}, seed {seed}", flush=True)
        if _is_finished(folder, script, args):  # it was stopped behind the training
            _complete(name, seed)
            continue
        if "more.txt" in args and not _is_made_as(MAKE_MORE):
            if _run([sys.executable, *MAKE_MORE]):
                raise UserError("more.txt could not be written")
        home = folder.relative_to(ROOT).as_posix()  # the result names it: no path of this machine
        command = [sys.executable, str(script), "--out-dir", home]
        resume = _is_unfinished(folder, script, [*args, "--seed", str(seed)])
        command += ["--resume"] if resume else [*args, "--seed", str(seed)]
        if _run(command):
            raise UserError(f"{name}, seed {seed} stopped; run the same command again to go on")
        _complete(name, seed)


def _is_made_as(command):
    """True where more.txt is there, made by this command; by another, it is another text."""
    with contextlib.suppress(UserError, OSError):
        about = read_json(ROOT / "more.json", "what world.py wrote of a text")
        made_as, world = about.get("command"), about.get("format")
        sample = read_json(ROOT / "data" / "input.json", "what world.py wrote of the sample")
        same = made_as == " ".join(["python", *command]) and world == sample.get("format", "")
        return (ROOT / "more.txt").exists() and same
    return False


def _run(command):
    """A command's exit status. What stops this process stops it as well, and is waited for: a run
    that is told to stop saves first.
    """
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal's Ctrl-C has reached both
        process.wait()
        raise
    except SystemExit:  # SIGTERM has reached this one alone
        process.terminate()
        process.wait()
        raise


def _complete(name, seed):
    """Write a finished run's published file, once its model has been questioned."""
    folder = _folder(name, seed)
    result = read_result(folder / "result.json")
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    result["curve"] = [json.loads(row) for row in rows]
    result["environment"]["code_sha256"] = code_sha256(folder / "script.py")
    for key in _questions(name):
        if not (folder / f"{key}.json").exists():
            command = [sys.executable, "-m", f"results.{key}" if key != "claims" else "data.claims", str(folder)]
            if _run(command):
                raise UserError(f"{name}, seed {seed}: common.{key} stopped; run the same again")
        result[key] = read_json(folder / f"{key}.json", f"what common.{key} found")
    _result_path(name, seed).parent.mkdir(exist_ok=True)
    write_json(_result_path(name, seed), result)


def code_sha256(script):
    """Of a script's code: the same whatever its comments and docstrings say."""
    tree, parts = ast.parse(script.read_text(encoding="utf-8")), []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in list(ast.walk(tree)):
        if isinstance(node, documented) and ast.get_docstring(node):
            del node.body[0]
    for node in ast.walk(tree):
        values = [value for _, value in ast.iter_fields(node)]
        values = [repr(value) for value in values if not isinstance(value, (list, ast.AST))]
        parts.append([type(node).__name__, *values])
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def outdated(jobs):
    """The names among published runs whose script has other code by now."""
    made = {name: load_results(name).values() for name, _, _ in jobs}
    return [
        name
        for name, found in made.items()
        if any(r["environment"].get("code_sha256") != code_sha256(_script(name)) for r in found)
    ]


def _questions(name):
    """What is asked of a published run: of the versions themselves, hardly of their variants."""
    kinds = {"sample": ["probes", "diagnostics", "claims"], "sample-long": ["probes", "claims"]}
    kinds |= {"wikitext-2": ["diagnostics", "heldout"], "wikitext-2-long": ["heldout"]}
    return ["claims"] if name == HALF else kinds.get(name.partition("-")[2], [])


def _folder(name, seed):
    return ROOT / "runs" / "published" / f"{name}-seed{seed}"


def _script(name):
    return ROOT / f"{name.partition('-')[0]}.py"


# A result's `seconds` are of training alone. The judge made the whole up to 1.2 times as long,
# beyond v4's context 1.5 times; to start, to read the text and to sample take some seconds more.
JUDGED, STARTED = 1.25, 5


def expected(todo):
    """The seconds that each run of [(name, seed, arguments), ...] will take; None: nobody knows.

    From the training times in results/: of the same name; else of its first words, v2-sample for
    v2-sample-dot, v2 for v2-wikitext-2; else of all. On another machine they are a first guess.
    """

    def names(name):  # from the nearest to the farthest
        words = name.split("-")
        return [name, *("-".join(words[:n]) + "-" for n in range(len(words), 0, -1)), ""]

    found, times = {}, []
    for path in sorted((ROOT / "results").glob("*-seed*.json")):
        with contextlib.suppress(UserError):  # a damaged one tells nothing of time
            seconds = read_result(path)["seconds"]
            if 0 <= seconds < math.inf:
                for name in names(path.name.rpartition("-seed")[0]):
                    found.setdefault(name, []).append(seconds)
    for job in todo:
        known = next((found[name] for name in names(job[0]) if name in found), None)
        times.append(statistics.median(known) * JUDGED + STARTED if known else None)
    return times


def time_left(times, done, elapsed):
    """How long runs expected to take `times` still take, in words, after the first `done` of them
    took `elapsed` seconds: the others as much longer or shorter than expected as those.
    """
    if None in times and not done:
        return "how long that takes is known after the first"
    times = [1] * len(times) if None in times else times
    left = sum(times[done:]) * (elapsed / sum(times[:done]) if done else 1)
    minutes = max(1, round(left / 60))
    return f"about {minutes} min left" if done else f"about {minutes} min, by those in results/"


def _result_path(name, seed):
    return ROOT / "results" / f"{name}-seed{seed}.json"


def _is_published(name, seed, args):
    """True where the run's file is there and was made with these arguments."""
    path = _result_path(name, seed)
    if not path.exists():
        return False
    result = read_result(path)
    _refuse_misnamed(path, name, result)
    return _has_settings(result, args) and _is_of_this_sample(result)


def _is_of_this_sample(result):
    """False where a run on the sample read another one than lies here now."""
    about = ROOT / "data" / "input.json"
    sha256 = read_json(about, "what world.py wrote of the sample").get("sha256")
    return result["data"].get("name") != "sample" or result["data"].get("sha256") in (sha256, None)


def _has_settings(result, args):
    off = {"--" + arg.removeprefix("--no-"): "False" for arg in args if arg.startswith("--no-")}
    args = [arg for arg in args if not arg.startswith("--no-")]
    wanted = dict(zip(args[::2], args[1::2], strict=True)) | off  # flag, value, flag, value, ...
    config = LATER | result["config"]
    made = {"--" + key.replace("_", "-"): str(value) for key, value in config.items()}
    return all(made.get(flag) == value for flag, value in wanted.items())


def _can_be_completed(name, seed, args):
    """True where the published file lacks a key that its run, which is here, can still give."""
    result = read_result(_result_path(name, seed))
    folder = _folder(name, seed)
    if all(key in result for key in ["curve", *_questions(name)]):
        return False
    if not _is_finished(folder, _script(name), args):
        return False
    here = read_result(folder / "result.json")
    return here["val_bits_per_byte"] == result["val_bits_per_byte"]


def _is_of_its_folder(name, seed, args):
    """True where the published file was made of the run that lies in its folder here."""
    folder = _folder(name, seed)
    if not _is_finished(folder, _script(name), args):
        return False
    here, result = read_result(folder / "result.json"), read_result(_result_path(name, seed))
    return all(here[key] == result[key] for key in ("val_bits_per_byte", "seconds"))


def _is_finished(folder, script, args):
    """True where a run of this very script with these settings ended, whether published or not."""
    if not (folder / "result.json").exists() or not _is_script(folder, script):
        return False
    return _has_settings(read_result(folder / "result.json"), args)


def _is_unfinished(folder, script, args):
    """True where a run of this very script with these settings was stopped."""
    if (folder / "result.json").exists() or not (folder / "checkpoint.pt").exists():
        return False
    with contextlib.suppress(UserError):  # damaged settings are begun anew
        settings = read_json(folder / "config.json", "a run's settings")
        return _is_script(folder, script) and _has_settings(settings, args)
    return False


def _is_script(folder, script):
    """True where the run was made by this code, whatever was said beside it since."""
    try:
        return code_sha256(folder / "script.py") == code_sha256(script)
    except (OSError, SyntaxError, ValueError):  # not there, or damaged
        return False


# ---- Numbers -------------------------------------------------------------------------------------


def mean_and_deviation(values):
    """Mean and sample standard deviation (None for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def difference(before, after):
    """Mean of after - before over the seeds that both have, and its 95 % confidence interval.

    before, after: {seed: number}. Student's t on the paired differences; None with fewer than
    three seeds in common.
    """
    from scipy.stats import t

    seeds = sorted(set(before) & set(after))
    if len(seeds) < 3:
        return None
    deltas = [after[seed] - before[seed] for seed in seeds]
    mean, deviation = mean_and_deviation(deltas)
    half = t.ppf(0.975, len(deltas) - 1) * deviation / math.sqrt(len(deltas))
    return mean, mean - half, mean + half


def bits_by_seed(results):
    """{seed: bits per byte} of {seed: result}."""
    return {seed: result["val_bits_per_byte"] for seed, result in results.items()}


def spread(results):
    """Mean ± standard deviation of the bits per byte, and the number of seeds, as text."""
    mean, deviation = mean_and_deviation(list(bits_by_seed(results).values()))
    around = "" if deviation is None else f" ± {deviation:.3f}"
    return f"{mean:.3f}{around} ({len(results)})"


def delta(before, after):
    """`difference` of the bits per byte, as text; "" where nothing can be claimed."""
    found = difference(bits_by_seed(before), bits_by_seed(after)) if before else None
    if found is None:
        return ""
    mean, low, high = found
    if low <= 0 <= high:
        return f"{mean:+.3f}, n.s."
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _median(results, key):
    return statistics.median(result[key] for result in results.values())


# ---- Tables --------------------------------------------------------------------------------------


def diff_size(before, after):
    """Lines added and removed between two versions' scripts, as `+52 −30`."""
    texts = [(ROOT / f"{v}.py").read_text(encoding="utf-8").splitlines() for v in (before, after)]
    matcher = difflib.SequenceMatcher(None, *texts, autojunk=False)
    changes = [code[1:] for code in matcher.get_opcodes() if code[0] != "equal"]
    added = sum(j_end - j for _, _, j, j_end in changes)
    removed = sum(i_end - i for i, i_end, _, _ in changes)
    return f"+{added} −{removed}"


def markdown(head, rows, aligned=False):
    """A table in Markdown; `aligned` for a terminal: every column as wide as its widest cell."""
    lines = [[str(cell) for cell in line] for line in (head, ["---"] * len(head), *rows)]
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def lineage_table(corpus):
    """`lineage_rows` in Markdown, and what the numbers are."""
    return markdown(*lineage_rows(corpus)) + _footnote(corpus)


def lineage_rows(corpus):
    """The table's head and a row a version: what it is, what it cost, what it reached, and by how
    much it is better. Beneath them what counting reaches.

    A control is a version with half of its step, before it, or with settings that the next had to
    change, behind it. The longer run on WikiText-2 comes last.
    """
    rows, before = [], {}
    for version in ORDER:
        results = load_results(f"{version}-{corpus}")
        control = load_results(f"{version}-{corpus}-control")
        idea = f"control: {CONTROLS.get(version)}"
        if control and version in HALVES:
            rows.append(_row(version, idea, "", control, before, corpus))
        if results:
            previous = ORDER[ORDER.index(version) - 1] if version != ORDER[0] else None
            diff = diff_size(previous, version) if previous else ""
            rows.append(_row(version, results[min(results)]["idea"], diff, results, before, corpus))
            before = results
        if control and version not in HALVES:
            rows.append(_row(version, idea, "", control, results, corpus))
    if corpus == "wikitext-2" and (longer := load_results("v4-wikitext-2-long")):
        idea = f"the same with {LONG['n-layer']} blocks and {LONG['steps']:,} steps"
        rows.append(_row("v4", idea, "", longer, before, corpus))
    head = ["version", "the one idea", "diff", "parameters", "tokens", "bits per byte (seeds)"]
    head += ["above the floor" if corpus == "sample" else "word perplexity, validation / test"]
    head += ["Δ to the one before [95 %]", "tokens/s", "peak MB", "training"]
    return head, rows + _reference_rows(corpus)


HALVES = ("v1", "v4")
HALF = "v4-sample-control"
CONTROLS = {
    "v1": "with v0's tokenizer: batches, and the steps and learning rate that suit them",
    "v1_1": "with the next one's batches and steps",
    "v4": "without the mimetic start, of which v3 has the head's part",
}


def _reference_rows(corpus):
    """What counting the same tokens reaches, where `references` has counted them."""
    path, rows = ROOT / "results" / f"reference-{corpus}.json", []
    for run in list(load_results(f"v0-{corpus}").values())[:1]:  # its seeds count the same
        bits = run.get("references", {}).get("bigrams, counted")
        if bits is not None:
            against = f"{bits - floor():.3f}" if corpus == "sample" else ""
            idea = "bigrams, counted of v0's tokens, with Kneser-Ney smoothing"
            rows.append(["", idea, "", "", "", f"{bits:.3f}", against, "", "", "", ""])
    if path.exists():
        for r in read_reference(path)["rows"]:
            bits, words = r["val_bits_per_byte"], r["val_word_perplexity"]
            against = f"{words:.1f}" if words else ""
            against = f"{bits - floor():.3f}" if corpus == "sample" else against
            idea = f"{r['name']} of v1's tokens, with Kneser-Ney smoothing"
            took = f"{r['seconds']:.1f} s"
            rows.append(["", idea, "", "", "", f"{bits:.3f}", against, "", "", "", took])
    return rows


def read_reference(path):
    """What `references` wrote. Raises UserError where no table can be made of it."""
    reference = read_json(path, "a file of reference rows")
    kinds = {"name": str, "val_bits_per_byte": float, "seconds": (int, float)}
    kinds["val_word_perplexity"] = (float, type(None))
    try:
        rows = reference["rows"]
        whole = rows and all(isinstance(row[key], kinds[key]) for row in rows for key in kinds)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: count again, python -m results.tables references")
    return reference


def _row(version, idea, diff, results, before, corpus):
    first = results[min(results)]
    if corpus == "sample":
        against = f"{statistics.fmean(bits_by_seed(results).values()) - floor():.3f}"
    else:
        against = f"{_median(results, 'val_word_perplexity'):.1f}"
        tested = [r["heldout"]["word_perplexity"] for r in results.values() if "heldout" in r]
        against += f" / {statistics.median(tested):.1f}" if tested else ""
    return [
        f"`{version}`",
        idea,
        diff,
        f"{first['params']:,}",
        f"{first['tokens_seen'] / 1e6:.2f} M",
        spread(results),
        against,
        delta(before, results),
        f"{_median(results, 'tokens_per_second'):,.0f}",
        f"{_median(results, 'peak_rss_mb'):.0f}",
        f"{_median(results, 'seconds'):.0f} s",
    ]


def variants_table(corpus, rows, base):
    """Bits per byte of variants, each beside the first row's: [(label, name), ...]."""
    lines, reference = [], load_results(base)
    for label, name in rows:
        results = load_results(name)
        if results:
            change = "" if name == base else delta(reference, results)
            lines.append([label, spread(results), change])
    table = markdown(["", "bits per byte (seeds)", "Δ to the first row [95 %]"], lines)
    return f"{table}\n\nΔ is the mean difference of the seeds that both rows have."


def _measured(key, alike, names=None):
    """What the runs of {label: name} hold under a key: {label: [of each seed]}.

    Of measurements that differ in `alike`, a function of one, the commonest alone. Without names:
    the versions' own runs on the sample.
    """
    names = names or {version: f"{version}-sample" for version in ORDER}
    runs = {label: load_results(name).values() for label, name in names.items()}
    found = {version: [r[key] for r in each if key in r] for version, each in runs.items()}
    kinds = Counter(alike(one) for each in found.values() for one in each)
    if not kinds:
        return {}
    ((most, n),) = kinds.most_common(1)
    if n < kinds.total():
        print(f"{key}: {kinds.total() - n} runs were asked otherwise, left out", file=sys.stderr)
    found = {v: [one for one in each if alike(one) == most] for v, each in found.items()}
    return {version: each for version, each in found.items() if each}


def probe_rows(names=None):
    """Head and rows of the probes' table, or None: right answers, mean ± standard deviation.

    A row a kind of question, a column a version, or a label of {label: name}; the seeds were asked
    the same questions.
    """
    asked = _measured("probes", lambda one: one["questions_sha256"], names)
    if not asked:
        return None
    rows = []
    for kind, about in next(iter(asked.values()))[0]["kinds"].items():
        row = [kind, f"{about['n']:.0f}", f"{100 * about['chance']:.0f} %"]
        for seeds in asked.values():
            shares = [100 * one["kinds"][kind]["accuracy"] for one in seeds if kind in one["kinds"]]
            mean, deviation = mean_and_deviation(shares or [0])
            around = "" if deviation is None else f" ± {deviation:.0f}"
            row.append(f"{mean:.0f} %{around}" if shares else "–")
        rows.append(row)
    head = [f"{version} ({len(seeds)})" for version, seeds in asked.items()]
    return ["question", "asked", "chance", *head], rows


def diagnostic_rows(corpus="sample"):
    """Head and rows of the diagnostics' table, or None: the text itself, and the seeds' means."""
    from results.diagnostics import COLUMNS, table_rows

    def alike(one):
        return json.dumps([one[key] for key in ("source", "prompts", "temperature")])

    found = _measured("diagnostics", alike, {v: f"{v}-{corpus}" for v in ORDER})
    if not found:
        return None
    lines = {"the text itself": next(iter(found.values()))[0]["source"]}
    for version, seeds in found.items():
        values = {key: [one[key] for one in seeds if one[key] is not None] for key in COLUMNS}
        means = {key: statistics.fmean(each) if each else None for key, each in values.items()}
        lines[f"{version} ({len(seeds)})"] = means
    return table_rows(lines)


def claims_rows():
    """Head and rows of what the runs' stories claim (`data.claims`), or None."""
    from data.claims import table_rows

    def alike(one):
        return json.dumps([one[key] for key in ("stories", "seed", "temperature")])

    names = {version: f"{version}-sample" for version in ORDER[:-1]}
    names |= {"v4, control": HALF, **LONGER}
    told = _measured("claims", alike, names)
    if not told:
        return None
    return table_rows({f"{label} ({len(seeds)})": [one["found"] for one in seeds]
                       for label, seeds in told.items()})  # fmt: skip


def _if_measured(rows, command):
    """A table in Markdown, or what makes it where there is none."""
    return markdown(*rows) if rows else f"Not measured yet: `{command}`."


def extrapolation_table(rows):
    """v4's bits per byte at 1, 2, 4 and 8 times the training context, side by side / sliding."""
    lines = []
    for label, name in rows:
        results = load_results(name)
        cells = []
        for times in (1, 2, 4, 8):
            found = [
                row
                for result in results.values()
                for row in result.get("extrapolation", [])
                if row["times"] == times
            ]
            if found:
                pair = (statistics.fmean(r[k] for r in found) for k in ("side_by_side", "sliding"))
                cells.append(" / ".join(f"{value:.3f}" for value in pair))
            else:
                cells.append("–")
        if results:
            lines.append([label, *cells])
    return markdown(["position", "1×", "2×", "4×", "8×"], lines)


def vocabulary_table():
    """v3 with vocabularies of several sizes: what compares, and beside it what does not."""
    rows = []
    for size in VOCABULARIES:
        results = load_results(f"v3-wikitext-2-vocab-{size}")
        if results:
            bits, nats = (_median(results, key) for key in ("val_bits_per_byte", "val_loss"))
            read = _median(results, "tokens_seen") * nats / (bits * math.log(2)) / 1e6
            row = [f"{size:,}", f"{_median(results, 'params'):,.0f}", f"{nats:.3f}"]
            row += [spread(results), f"{read:.1f} MB"]
            rows.append(row)
    head = ["vocabulary", "parameters", "nats per token", "bits per byte (seeds)"]
    return markdown([*head, "text seen"], rows)


def samples(names):
    """The sample of each of {label: name}, of its first seed, as a quotation."""
    blocks = []
    for label, name in names.items():
        results = load_results(name)
        if results:
            result = results[min(results)]
            quote = "\n".join(f"> {line}" for line in _first_text(result).splitlines())
            bits = f"{result['val_bits_per_byte']:.3f} bits per byte"
            blocks.append(f"**{label}**, {bits}, seed {result['seed']}:\n\n{quote}")
    return "\n\n".join(blocks)


def benchmark(name):
    """What a benchmark in tests/ printed, as results/bench-NAME.txt keeps it."""
    path = ROOT / "results" / f"bench-{name}.txt"
    text = path.read_text(encoding="utf-8").rstrip() if path.exists() else "not measured yet"
    return f"```\n{text}\n```"


def _first_text(result):
    """The first document of a run's sample."""
    return result["sample"].split("\n\n")[0].strip()


def glimpses(corpus, width=230):
    """The beginning of each version's sample, for a first look; none twice."""
    rows, seen = [], set()
    for version in ORDER:
        results = load_results(f"{version}-{corpus}")
        text = _first_text(results[min(results)]) if results else ""
        if text and text not in seen:
            seen.add(text)
            words = textwrap.shorten(text.replace("|", "\\|"), width, placeholder=" …")
            bits = results[min(results)]["val_bits_per_byte"]
            rows.append([f"`{version}`", f"{bits:.3f}", words])
    return markdown(["version", "bits per byte", "what it writes"], rows)


def floor():
    """The sample's entropy in bits per byte: what no model gets below, but by chance."""
    info = json.loads((ROOT / "data" / "input.json").read_text(encoding="utf-8"))
    return info["splits"]["validation"]["floor_bits_per_byte"]


def machines(corpus):
    """What the versions' results were made on: GPUs, or the CPU's name and threads."""
    names = set()
    for e in (result["environment"] for result in _of_versions(corpus)):
        on = e.get("processor", e["device"]) if e["device"] == "cpu" else e["device"]
        names.add(f"{on} with {e['threads']} threads")
    return " and ".join(sorted(names))


def _of_versions(corpus):
    return [r for version in ORDER for r in load_results(f"{version}-{corpus}").values()]


def _footnote(corpus):
    found = _of_versions(corpus)
    if not found:
        return "\n\nNo run is published yet."
    counted = (ROOT / "results" / f"reference-{corpus}.json").exists()
    torches, dtypes = (
        " and ".join(sorted({r["environment"][key] for r in found}, reverse=True))
        for key in ("torch", "dtype")
    )
    return (
        f"\n\nMean ± standard deviation, number of seeds in brackets; Δ is the mean difference of"
        f" the same seeds with its 95 % confidence interval, n.s. where that holds zero. Speed,"
        f" memory and time are medians on {machines(corpus)}, torch {torches}, {dtypes}; memory is"
        f" the whole run's, with reading the text and making the vocabulary."
        f" Made by `python -m results.tables publish`"
        f"{' and `references`' if counted else ''}."
    ) + f"\n\n{ELSEWHERE}" * (corpus == "wikitext-2")


BENCHMARKS = "training training-compiled time-to-loss sampling memory scaleout startup".split()
BENCHMARKS += "memory-glibc-2.41 gpu-training gpu-training-compiled gpu".split()
LONGER = {"v4": "v4-sample", "v4, longer": "v4-sample-long"}
POSITIONS = [("ALiBi", "v4-sample"), ("RoPE", "v4-sample-rope")]
POSITIONS += [(kind, f"v4-sample-{kind}") for kind in ("learned", "sinusoidal", "none")]
ATTENTION = [
    ("full: queries, keys and values", "v2-sample"),
    ("dot: a dot product with nothing to learn", "v2-sample-dot"),
    ("mean: the mean of what came before", "v2-sample-mean"),
]
DROPOUT = [("dropout 0", "v3-sample"), ("dropout 0.1", "v3-sample-dropout")]
TABLES = {
    "lineage-sample": lambda: lineage_table("sample"),
    "lineage-wikitext-2": lambda: lineage_table("wikitext-2"),
    "attention": lambda: variants_table("sample", ATTENTION, "v2-sample"),
    "dropout": lambda: variants_table("sample", DROPOUT, "v3-sample"),
    "position": lambda: variants_table("sample", POSITIONS, "v4-sample"),
    "vocabulary": vocabulary_table,
    "extrapolation": lambda: extrapolation_table(POSITIONS),
    "samples": lambda: samples({f"`{version}`": f"{version}-sample" for version in ORDER}),
    "longer-sample": lambda: samples({"`v4`, trained longer": "v4-sample-long"}),
    **{f"bench-{name}": lambda name=name: benchmark(name) for name in BENCHMARKS},
    "glimpses": lambda: glimpses("sample"),
    "probes": lambda: _if_measured(probe_rows(), "python -m results.probes"),
    "claims": lambda: _if_measured(claims_rows(), "python -m data.claims"),
    "longer": lambda: _if_measured(probe_rows(LONGER), "python -m results.probes"),
    "diagnostics": lambda: _if_measured(diagnostic_rows(), "python -m results.diagnostics"),
    "diagnostics-wikitext-2": lambda: _if_measured(
        diagnostic_rows("wikitext-2"), "python -m results.diagnostics"
    ),
}


def rewritten(text):
    """The README's text with the tables between their markers made anew from results/."""
    for name, table in TABLES.items():
        begin = f"<!-- {name}: made by python -m results.tables readme -->"
        end = f"<!-- /{name} -->"
        if begin not in text:
            continue
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise UserError(f"README.md: {begin} is never closed by {end}")
        text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


def readme():
    """Rewrite the README's tables from the files in results/."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(rewritten(text), encoding="utf-8", newline="\n")


def local(folder: str = "runs"):
    """The table of the finished runs in a folder and in those below it.

    A damaged result is named on standard error and left out; the exit status is 2 only where no
    run is left to be shown.

    Args:
        folder: where the runs are
    """
    rows, damaged = [], []
    for path in sorted(Path(folder).rglob("result.json")):
        try:
            r = read_result(path)
        except UserError as error:
            damaged.append(error)
            continue
        rows.append(
            [
                str(path.parent),
                r["version"],
                r["data"].get("name"),
                r["seed"],
                r.get("steps", ""),
                f"{r['val_bits_per_byte']:.3f}",
                f"{r['params']:,}",
                f"{r['tokens_per_second']:,.0f}",
                f"{r['seconds']:.0f} s",
            ]
        )
    if not rows:  # the last of the reasons ends it
        no_run = UserError(f"no finished run in {folder}: make one with python v0.py")
        *damaged, last = damaged or [no_run]
    head = ["run", "version", "data", "seed", "steps", "bits per byte", "parameters"]
    if rows:
        print(markdown([*head, "tokens/s", "training"], rows, aligned=True), flush=True)
    for error in damaged:
        print(f"left out: {error}", file=sys.stderr)
    if not rows:
        raise last


def main():
    from results.compare import check, compare
    from results.references import references

    commands = {"local": local, "publish": publish, "readme": readme, "compare": compare,
                "check": check, "references": references}  # fmt: skip
    run_command(commands, __doc__, sys.argv[1:] or ["local"])


if __name__ == "__main__":
    run_main(main)
