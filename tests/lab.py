"""Runs in processes of their own that can be killed, or refused the disk, at a chosen operation.

A fork server imports torch once; each run is a process forked from it. Where a system can't fork,
each run is started from scratch.
"""

import builtins
import contextlib
import errno
import functools
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import torch
from lineage import flags, load, read, small, story_file
from safetensors.torch import load_file

METHODS = multiprocessing.get_all_start_methods()
processes = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
IMPORTED = "pytest torch._dynamo tyro safetensors.torch matplotlib.figure lineage common.training"
processes.set_forkserver_preload(IMPORTED.split())
SIZES = {"steps": 40, "eval_every": 4}  # ten evaluations, each of which saves a checkpoint
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the latter alone
KILLED = -KILL if KILL != signal.SIGTERM else KILL  # exit code of a killed run


# What belongs to one run alone: its folder, the machine and its load, and hashes that cover those.
OWN = "out_dir seconds tokens_per_second peak_rss_mb environment checksum sha256".split()


def at_step(module, monkeypatch, step, act):
    """Call `act` when the batch, or the first micro-batch, of this step is drawn."""
    get_batch, count = module.get_batch, []

    def counted(*args):
        count.append(1)
        if len(count) == (step - 1) * getattr(small(module), "grad_accum", 1) + 1:
            act()
        return get_batch(*args)

    monkeypatch.setattr(module, "get_batch", counted)


class Killer:
    """Notes every file operation in a folder and every step; kills its own process at one.

    A write is cut in half: what an attempt that dies in it leaves is half a file.
    """

    def __init__(self, folder, notes, at_operation=None, at_step=None, full=None):
        self.folder, self.at_operation, self.at_step = str(folder), at_operation, at_step
        # Which file finds the disk full, when it is opened which time, after how many bytes.
        self.full, self.times, self.room = full or ("", 0, 0)
        self.notes = open(notes, "w", encoding="utf-8", buffering=1)
        self.count, self.name = 0, ""
        self.open, self.replace, self.fsync = builtins.open, os.replace, os.fsync
        builtins.open, os.replace, os.fsync = self.opened, self.replaced, self.synced

    def point(self, name):
        """Between two operations: die here, or go on."""
        self.notes.write(f"{name}\n")
        self.count += 1
        if self.at_operation in (self.count, name):
            os.kill(os.getpid(), KILL)

    def step(self, number):
        self.notes.write(f"step {number}\n")
        if number == self.at_step:
            os.kill(os.getpid(), KILL)

    def opened(self, path, mode="r", *args, **kwargs):
        file = self.open(path, mode, *args, **kwargs)
        if mode[0] not in "wax":
            return file
        if self.full and self.full in str(path):
            self.times -= 1
            if self.times == 0:
                return Written(file, self.on_a_full_disk)
        if not str(path).startswith(self.folder):
            return file
        name = self.name = re.sub(r"\.[0-9a-f]+\.tmp$", ".tmp", Path(path).name)
        self.point(f"open {name}")
        points = iter([f"write {name}"])
        return Written(file, lambda file, data: self.in_halves(file, data, next(points, None)))

    def on_a_full_disk(self, file, data):
        """Write as much as there is room for."""
        file.write(data[: max(self.room, 0)])
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    def in_halves(self, file, data, point):
        """Write the data, with a point in its middle where there is one."""
        half = len(data) // 2 if point else 0
        if point:
            file.write(data[:half])
            file.flush()
            self.point(point)
        return half + file.write(data[half:])

    def synced(self, descriptor):
        self.fsync(descriptor)
        self.point(f"fsync {self.name}")

    def replaced(self, source, target):
        self.replace(source, target)
        if str(target).startswith(self.folder):
            what = "replace" if Path(target).parent == Path(source).parent else "move aside"
            self.point(f"{what} {Path(target).name}")


class Written(contextlib.AbstractContextManager):
    """Stands in for an open file; what is written to it goes through `write(file, data)`."""

    def __init__(self, file, write):
        self.file, self.write = file, functools.partial(write, file)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __exit__(self, *exception):
        self.file.close()


def attempt(version, args, cache, notes, said, when):
    """In a process of its own: the script with these arguments, which may be killed meanwhile."""
    from common.cli import run_main

    os.environ["LINEAGE_CACHE"] = str(cache)
    sys.stdout = sys.stderr = open(said, "w", encoding="utf-8", buffering=1)
    module = load(version)
    killer = Killer(args[args.index("--out-dir") + 1], notes, **when)
    log_step = module.Run.log_step

    def noted(run, loss, tokens):
        log_step(run, loss, tokens)
        killer.step(run.step)

    module.Run.log_step = noted
    sys.argv = [f"{version}.py", *args]
    run_main(module.main)


class Lab:
    """A text, a cache, and runs on them in processes of their own."""

    def __init__(self, folder, version):
        self.folder, self.version, self.module = folder, version, load(version)
        folder.mkdir(exist_ok=True)
        self.text = story_file(folder)

    def args(self, out, **changes):
        values = {**SIZES, "dropout": 0.1, **changes}
        return flags(self.module, data=self.text, out_dir=self.folder / out, **values)

    def start(self, args, **when):
        """A process of the script; `when` are Killer's arguments."""
        paths = [str(self.folder / name) for name in ("cache", "notes", "said")]
        args = [str(arg) for arg in args]
        (self.folder / "notes").unlink(missing_ok=True)
        process = processes.Process(target=attempt, args=(self.version, args, *paths, when))
        process.start()
        return process

    def run(self, args, **when):
        """The exit code: 0 after a whole run, KILLED after one that was killed."""
        process = self.start(args, **when)
        process.join()
        return process.exitcode

    def resume(self, out, **when):
        return self.run(["--resume", "--out-dir", self.folder / out], **when)

    def notes(self):
        return (self.folder / "notes").read_text(encoding="utf-8").splitlines()

    def said(self):
        return (self.folder / "said").read_text(encoding="utf-8")


def contents(folder):
    """All of a run that has to be the same, in a form that can be compared."""
    paths = folder / "checkpoint.pt", folder / "best.pt"
    return {
        "result": plain(read(folder / "result.json"), OWN),
        "metrics": metrics_of(folder),
        "samples": (folder / "samples.txt").read_bytes(),
        "saved": plain([torch.load(path, weights_only=True) for path in paths], OWN),
        "shared": plain(load_file(folder / "model.safetensors")),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def metrics_of(folder):
    """The lines of metrics.jsonl, without their times."""
    return plain(read(folder / "metrics.jsonl"), OWN)


def plain(value, without=()):
    """Tensors as their exact bytes, so that == compares bit for bit; without some keys."""
    if torch.is_tensor(value):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(part, without) for name, part in value.items() if name not in without}
    return [plain(part, without) for part in value] if isinstance(value, (list, tuple)) else value
