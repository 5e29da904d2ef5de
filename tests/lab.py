"""For the tests of what a run loses: runs in processes of their own that can be killed, or be
refused the disk, at a chosen file operation.

A fork server imports torch once; each run is a process forked from it. Where a system can't fork,
each is started afresh.
"""

import builtins
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

import torch
from lineage import flags, load, story_file

METHODS = multiprocessing.get_all_start_methods()
processes = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
IMPORTED = "pytest torch._dynamo tyro safetensors.torch matplotlib.pyplot lineage common.training.run"
processes.set_forkserver_preload(IMPORTED.split())
SIZES = {"steps": 40, "eval_every": 4}  # ten evaluations, each of which saves a checkpoint


class Killer:
    """Notes every file operation in a folder and every batch; kills its own process at one.

    A write is cut in half: what an attempt that dies in it leaves is half a file.
    """

    def __init__(self, folder, notes, at_operation=None, at_step=None, full=None):
        self.folder, self.at_operation, self.at_step = str(folder), at_operation, at_step
        # Which file finds the disk full, when it is opened which time, after how many bytes.
        self.full, self.times, self.room = full or ("", 0, 0)
        self.notes = open(notes, "w", encoding="utf-8", buffering=1)
        self.count = 0
        self.open, self.replace, self.fsync = builtins.open, os.replace, os.fsync
        builtins.open, os.replace, os.fsync = self.opened, self.replaced, self.synced

    def point(self, name):
        """Between two operations: die here, or go on."""
        self.notes.write(f"{name}\n")
        self.count += 1
        if self.count == self.at_operation:
            self.die()

    def die(self):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows as hard

    def step(self, number):
        self.notes.write(f"step {number}\n")
        if number == self.at_step:
            self.die()

    def opened(self, path, mode="r", *args, **kwargs):
        file = self.open(path, mode, *args, **kwargs)
        if mode[0] in "wax" and self.full and self.full in str(path):
            self.times -= 1
            if self.times == 0:
                return FullDisk(file, self.room)
        if mode[0] not in "wa" or not str(path).startswith(self.folder):
            return file
        name = Path(path).name
        self.point(f"open {name}")
        return Halved(file, lambda: self.point(f"write {name}"))

    def synced(self, descriptor):
        self.fsync(descriptor)
        self.point("fsync")

    def replaced(self, source, target):
        self.replace(source, target)
        if str(target).startswith(self.folder):
            what = "replace" if Path(target).parent == Path(source).parent else "move aside"
            self.point(f"{what} {Path(target).name}")


class FullDisk:
    """A file that the system lets grow by no more than `room` bytes until it is closed.

    Not on Windows, which has no such limit.
    """

    def __init__(self, file, room):
        self.file = file
        signal.signal(getattr(signal, "SIGXFSZ", None), signal.SIG_IGN)  # a signal beside the error
        self.limit(os.fstat(file.fileno()).st_size + room)

    def limit(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            self.file.close()
        finally:
            self.limit(resource.RLIM_INFINITY)


class Halved:
    """A file whose first write has a point in its middle."""

    def __init__(self, file, point):
        self.file, self.point = file, point

    def write(self, data):
        if self.point is not None:
            half = len(data) // 2
            self.file.write(data[:half])
            self.file.flush()
            point, self.point = self.point, None
            point()
            return half + self.file.write(data[half:])
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def attempt(version, args, cache, notes, said, when):
    """In a process of its own: the script with these arguments, which may be killed meanwhile."""
    from common.cli import run_main

    os.environ["LINEAGE_CACHE"] = str(cache)
    sys.stdout = sys.stderr = open(said, "w", encoding="utf-8", buffering=1)
    module = load(version)
    folder = args[args.index("--out-dir") + 1]
    killer = Killer(folder, notes, **when)
    done = module.Run.done

    def noted(run, step, state):
        over = done(run, step, state)
        killer.step(step)
        return over

    module.Run.done = noted
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
        paths = [str(self.folder / name) for name in ("cache", "notes", "said")]
        args = [str(arg) for arg in args]
        (self.folder / "notes").unlink(missing_ok=True)
        process = processes.Process(target=attempt, args=(self.version, args, *paths, when))
        process.start()
        return process

    def run(self, args, **when):
        """The exit code: 0 after a whole run, -9 (on Windows 15) after one that was killed."""
        process = self.start(args, **when)
        process.join()
        return process.exitcode

    def resume(self, out, **when):
        return self.run(["--resume", "--out-dir", self.folder / out], **when)

    def notes(self):
        return (self.folder / "notes").read_text(encoding="utf-8").splitlines()

    def said(self):
        return (self.folder / "said").read_text(encoding="utf-8")

    def contents(self, out):
        """All that has to be the same, in a form that can be compared; times are left out."""
        folder = self.folder / out
        times = ("seconds", "tokens_per_second", "peak_rss_mb", "environment", "checksum")
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = {
            "result": {name: value for name, value in result.items() if name not in times},
            "metrics": [{**json.loads(line), "seconds": 0} for line in lines],
            "samples": (folder / "samples.txt").read_bytes(),
            "shared": hashlib.sha256(weights(folder / "model.safetensors")).hexdigest(),
            "files": sorted(path.name for path in folder.iterdir()),
        }
        found["result"]["config"]["out_dir"] = None
        for name in ("checkpoint.pt", "best.pt"):
            saved = torch.load(folder / name, weights_only=True)
            saved["config"]["out_dir"] = saved["sha256"] = None
            for row in saved.get("run", {}).get("metrics", []):
                row["seconds"] = 0
            if "run" in saved:
                saved["run"]["seconds"] = 0
            found[name] = plain(saved)
        return found


def weights(path):
    """The tensors' bytes of a safetensors file: behind its header, which names the folder."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def plain(value):
    """Tensors as their exact bytes, so that == compares bit for bit."""
    if torch.is_tensor(value):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


KILLED = -getattr(signal, "SIGKILL", -signal.SIGTERM)
