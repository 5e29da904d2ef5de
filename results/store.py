"""The versions' scripts and the published results: where they lie, and how they are read.

A published run is one JSON file, results/NAME-seedK.json, where NAME is VERSION-CORPUS or
VERSION-CORPUS-VARIANT: the run's result.json and what was measured afterwards
(`Published`).
"""

import os
import re
from pathlib import Path
from typing import Annotated

from common.cli import read_config
from common.config import refuse_other_run
from common.errors import UserError
from common.files import NOT_JSON, read_bytes, read_json
from common.training.result import Count, Data, Point, Record, Result, Share, Window

import msgspec
from msgspec import Meta

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("sample", "wikitext-2")


class Scores(Record):
    """How well a split was predicted; losses in nats per token."""

    loss: float
    bits_per_byte: float
    perplexity: float
    word_perplexity: float | None
    accuracy: Share
    accuracy_top5: Share


class SplitScores(Record):
    """One split, with windows side by side and with windows that slide by half their length."""

    tokens: Count
    side_by_side: Scores
    sliding: Scores


class Evaluation(Record):
    """What `python -m results evaluate` measures: evaluation.json."""

    version: str
    splits: dict[str, SplitScores]  # validation and test
    windows: list[Window] = []  # on the first tokens of the validation split


class Published(Result):
    """A run's result and, in a published file, what was measured afterwards: the loss curve, the
    evaluation on both splits, the questions' answers and the stories' claims.
    """

    curve: Annotated[list[Point], Meta(min_length=1)] | None = None
    evaluation: Evaluation | None = None
    probes: dict | None = None  # as the commands of these names write and read them
    claims: dict | None = None

    def test_scores(self):
        """The test split with windows side by side, or None where it was not measured."""
        split = self.evaluation and self.evaluation.splits.get("test")
        return split and split.side_by_side

    def windows(self):
        """Bits per byte at several lengths of window, a list of Window, empty where not measured.

        `evaluate` measures with the best weights, the run itself with the last.
        """
        return (self.evaluation and self.evaluation.windows) or self.extrapolation

    def sliding_bits(self):
        """Bits per byte of the whole validation split with sliding windows, or None."""
        split = self.evaluation and self.evaluation.splits.get("validation")
        return split and split.sliding.bits_per_byte


class Counted(Record):
    """What counting n-grams reaches: a reference row under a corpus' table."""

    name: str
    order: int
    val_bits_per_byte: float
    val_word_perplexity: float | None
    seconds: float


class Reference(Record):
    """What results/reference-CORPUS.json holds: the rows, and the text and vocabulary of them."""

    data: Data
    tokenizer: dict
    rows: list[Counted]


def versions():
    """The versions that have a script, v0 first: v2 comes after v1_1, v10 after v9."""
    names = [path.stem for path in ROOT.glob("v*.py") if re.fullmatch(r"v\d+(_\d+)*", path.stem)]
    return sorted(names, key=lambda name: [int(part) for part in name[1:].split("_")])


def script_of(version):
    """The script of a version, or of an ablation such as v2_dot. Raises UserError."""
    for folder in (ROOT, ROOT / "results" / "ablations"):
        path = folder / f"{version}.py"
        if re.fullmatch(r"\w+", version) and path.exists():
            return path
    raise UserError(f"there is no script {version!r:.40}; there are {', '.join(versions())}")


def no_run(folder, what="run"):
    """The UserError for a folder that holds no run; it says what may be meant."""
    folder, known = Path(folder), Path("runs", folder)
    below = [str(path.parent) for path in sorted(folder.glob("*/config.json"))[:4]]
    if folder.is_file():
        advice = "it is a file: give a run's folder"
    elif known.is_dir() and known != folder:
        advice = f"did you mean {known}?"
    elif below:
        advice = f"did you mean {' or '.join(below)}?"
    else:
        script = f"{folder}.py" if str(folder) in versions() else f"v2.py --out-dir {folder}"
        advice = f"make one, python {script}"
    return UserError(f"no {what} in {folder}: {advice}")


def read_result(path):
    """A run's result.json, or a published file, as Published. Raises UserError, also where it is
    of another run than the config.json beside it.
    """
    path = Path(path)
    result = read_json(path, "a result file", Published)
    config = path.with_name("config.json")
    if path.name == "result.json" and os.path.lexists(config):
        named = result.version, {**result.config, "seed": result.seed}
        refuse_other_run(path, named, read_config(config))
    return result


def read_json_lines(path, what, schema):
    """The lines of a file of JSON objects, a list of `schema`; the last line may be half written.

    Raises UserError as `read_json` does, and where the file holds no whole line.
    """
    lines, rows = read_bytes(path).splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(msgspec.json.decode(line, type=schema))
        except NOT_JSON as error:
            if number < len(lines) or not rows:
                raise UserError(f"{path} is not {what}: line {number}: {error}") from None
    if not rows:
        raise UserError(f"{path} is not {what}: it is empty")
    return rows


def read_points(folder):
    """The evaluations in a run's metrics.jsonl, a list of Point. Raises UserError, also where they
    are of another run than config.json or result.json.
    """
    path, result = Path(folder, "metrics.jsonl"), Path(folder, "result.json")
    version, settings = read_config(Path(folder, "config.json"))
    points = read_json_lines(path, "a run's evaluations", Point)
    for point in points:
        if point.seed is not None:  # older runs named none
            named = point.version, {**settings, "seed": point.seed}
            refuse_other_run(path, named, (version, settings))
        point.version = point.seed = None  # what they say has been seen
    if os.path.lexists(result):
        last = read_result(result)
        if (last.steps, last.train_loss) not in [(one.step, one.train_loss) for one in points]:
            raise UserError(f"{path} is of another run than its result.json")
    return points


def result_path(name, seed):
    """The published file of a run's name and seed."""
    return ROOT / "results" / f"{name}-seed{seed}.json"


def load_results(name):
    """The published results of one name by seed, {1: Result, ...}; empty where there are none."""
    results = {}
    for path in sorted((ROOT / "results").glob(f"{name}-seed*.json")):
        result = read_result(path)
        refuse_misnamed(path, name, result)
        results[result.seed] = result
    return results


def refuse_misnamed(path, name, result):
    """Raise UserError for a file under another run's name: it would be counted as that run."""
    version, *rest = name.split("-")
    makers = {version, *(f"{version}_{part}" for part in rest)}  # v2-sample-dot: v2_dot.py
    if result.version not in makers or path.name != f"{name}-seed{result.seed}.json":
        raise UserError(
            f"{path} holds a run of {result.version} with seed {result.seed}: give it its own name"
        )


def published_names():
    """The names of all published runs, each once, in the order of the versions."""
    paths = (ROOT / "results").glob("v*-seed*.json")
    names = {re.sub(r"-seed\d+\.json$", "", path.name) for path in paths}
    order = {version: number for number, version in enumerate(versions())}
    known = [name for name in names if name.partition("-")[0] in order]
    return sorted(known, key=lambda name: (order[name.partition("-")[0]], name))


def reference_path(corpus):
    """The file of the reference rows of a corpus."""
    return ROOT / "results" / f"reference-{corpus}.json"


def read_references(corpus):
    """The reference rows of a corpus, empty where nothing was counted. Raises UserError."""
    path = reference_path(corpus)
    return read_json(path, "a file of reference rows", Reference).rows if path.exists() else []


def sample_info():
    """What the program that wrote the sample noted of it: format, sha256, entropy of each split."""
    return read_json(ROOT / "data" / "input.json", "what world.py noted of the sample")


def entropy(split="validation"):
    """The entropy of a split of the sample in bits per byte: the lower bound of every loss."""
    return sample_info()["splits"][split]["floor_bits_per_byte"]


def markdown(head, rows, aligned=False):
    """A table in Markdown; `aligned` for a terminal: every column as wide as its widest cell."""
    lines = [[str(cell) for cell in line] for line in (head, ["---"] * len(head), *rows)]
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
