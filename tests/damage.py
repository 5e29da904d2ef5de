"""What befalls the files of a run: functions that change a file, or put something else there."""

import functools
import os
import pickle
import shutil

from common.training.checkpoint import write_checkpoint

import torch
from filelock import FileLock
from inputs import put, sparse
from lineage import edit_json


def at(path, contents):
    """Each of these contents at the path, in turn."""
    return [{path: content} for content in contents]


def replaced(content):
    """A function that puts something else in the place of a file."""

    def replace(path):
        path.unlink()
        put(path, content)

    return replace


def of_other(name):
    """Put the other run's file of this name into the run."""
    return {f"run/{name}": lambda path: shutil.copy(path.parents[1] / "other" / name, path)}


HELD = []


def held(folder):
    """Hold the lock of a run's folder."""
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / ".lock")
    lock.acquire()
    HELD.append(lock)


def edited(**changes):
    """A function that changes a JSON file's values, without its checksum."""
    return functools.partial(edit_json, **changes)


# ---- Checkpoints ---------------------------------------------------------------------------------


def changed(place, value):
    """A function that puts a value at a place in a checkpoint, whose checksum fits afterwards.

    value: a function makes it of the one that is there; None takes it out.
    """

    def edit(path):
        content = part = torch.load(path, weights_only=True)
        *way, last = [int(name) if name.isdigit() else name for name in place.split()]
        for name in way:
            part = part[name]
        part[last] = value(part[last]) if callable(value) else value
        if value is None:
            del part[last]
        write_checkpoint(path, content)

    return edit


def first_weight(change):
    """A function that changes the first of a model's tensors."""
    return lambda model: {**model, next(iter(model)): change(next(iter(model.values())))}


VALUES = [
    *(("state optimizer", []), ("state batches", torch.zeros(3)), ("state batches", 1)),
    *(("state model", first_weight(lambda weight: weight[:1])), ("state", []), ("state", {})),
    *(("state model", first_weight(lambda weight: "weight")), ("step", "4"), ("config", 3)),
    ("state model", first_weight(lambda weight: torch.full_like(weight, torch.inf))),
    *(("config", None), ("config seed", torch.zeros(3)), ("config 1", 2), ("version", None)),
    *(("run", {}), ("run", []), ("run metrics", [1]), ("run metrics", [{"step": "x"}])),
    *(("run sample", None), ("run seconds", "x"), ("run tokens", -1), ("run samples", 3)),
    *(("run metrics", None), ("generators", []), ("generators 0", 3)),
    ("generators 0 torch", torch.zeros(3)),
]


class Evil:
    """Pickled, it makes a folder where it is read."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


CHECKPOINTS = [
    *(changed(place, value) for place, value in VALUES),
    *(changed("extra", Evil()), cut_in_half),
    *map(replaced, (b"", b"weights", pickle.dumps(Evil()))),
    *map(replaced, (sparse, os.mkfifo, os.mkdir)),
]
N_HARM = 8  # of them are bad whoever reads them; the rest are of what resuming reads alone

# ---- Other files ---------------------------------------------------------------------------------

SCRIPTS = [b"def f(:\n", b"\0", b"\xff", b"(" * 5000, b"x = " + b"-" * 100_000 + b"1"]
SCRIPTS += [os.mkfifo, os.mkdir]
WRONG = [
    *({"version": 4}, {"version": "../v3"}, {"version": "v77"}, {"config": []}),
    *({"config": {"seed": seed}} for seed in (-1, 2**64, "1")),
    *({"config": {"n_embd": width}} for width in (0, 1e300, 2**40, [16])),
    *({"config": {"learning_rate": float("nan")}}, {"config": {"prompt": "a\0b"}}),
    *({"config": {"dtype": "float8"}}, {"config": {"device": {"deep": {}}}}),
]
OTHER_SIZES = [{"config": {"n_embd": 2**15}}, {"config": {"vocab_size": 2**31}}]
RESULTS = [{"version": 3}, {"val_accuracy": 7}, {"data": {"name": None}}, {"config": {"steps": []}}]
