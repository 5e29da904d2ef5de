"""The versions' scripts and the published results: where they lie, and how they are read.

A published run is one JSON file, results/NAME-seedK.json, where NAME is VERSION-CORPUS or
VERSION-CORPUS-VARIANT: the run's result.json and what was measured afterwards
(`common.training.result.Result`).
"""

import json
import re
from pathlib import Path

from common.errors import UserError
from common.files import read_json
from common.training.result import Data, Record, Result

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("sample", "wikitext-2")


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
        if re.fullmatch(r"v\d+\w*", version) and path.exists():
            return path
    raise UserError(f"there is no script {version!r:.40}; there are {', '.join(versions())}")


def read_result(path):
    """A run's result.json, or a published file, as a Result. Raises UserError."""
    return read_json(path, "a result file", Result)


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
    version, _, rest = name.partition("-")
    ablation = f"{version}_{rest.rpartition('-')[2]}"  # v2-sample-dot is made by v2_dot.py
    if result.version not in (version, ablation) or path.name != f"{name}-seed{result.seed}.json":
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
    return json.loads((ROOT / "data" / "input.json").read_text(encoding="utf-8"))


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
