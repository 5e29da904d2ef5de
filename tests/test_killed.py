"""Runs that are killed (SIGKILL: nothing can be said or tidied up) and go on as if they had not been.

A fork server imports torch once; each attempt is a process forked from it, which dies at a chosen
file operation or step, or is killed from outside. Where a system can't fork, each is started afresh.
"""

import builtins
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from lineage import VERSIONS, flags, load, story_file

from common.run import FILES

METHODS = multiprocessing.get_all_start_methods()
processes = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
IMPORTED = "pytest torch._dynamo tyro safetensors.torch matplotlib.pyplot lineage common.run"
processes.set_forkserver_preload(IMPORTED.split())
SIZES = {"steps": 40, "eval_every": 4}  # ten evaluations, each of which saves a checkpoint


class Killer:
    """Notes every file operation in a folder and every batch; kills its own process at one.

    A write is cut in half: what an attempt that dies in it leaves is half a file.
    """

    def __init__(self, folder, notes, at_operation=None, at_step=None):
        self.folder, self.at_operation, self.at_step = str(folder), at_operation, at_step
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


def attempt(version, args, cache, notes, said, at_operation, at_step):
    """In a process of its own: the script with these arguments, which may be killed meanwhile."""
    from common.cli import run_main

    os.environ["LINEAGE_CACHE"] = str(cache)
    sys.stdout = sys.stderr = open(said, "w", encoding="utf-8", buffering=1)
    module = load(version)
    folder = args[args.index("--out-dir") + 1]
    killer = Killer(folder, notes, at_operation, at_step)
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
        self.text = story_file(folder)

    def args(self, out, **changes):
        values = {**SIZES, "dropout": 0.1, **changes}
        return flags(self.module, data=self.text, out_dir=self.folder / out, **values)

    def start(self, args, at_operation=None, at_step=None):
        paths = [str(self.folder / name) for name in ("cache", "notes", "said")]
        args = [str(arg) for arg in args]
        (self.folder / "notes").unlink(missing_ok=True)
        process = processes.Process(
            target=attempt, args=(self.version, args, *paths, at_operation, at_step)
        )
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
        times = ("seconds", "tokens_per_second", "peak_rss_mb", "environment", "sha256")
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
            saved["config"]["out_dir"] = None
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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """v3 with dropout, and a run of it that was never killed, in `whole`."""
    lab = Lab(tmp_path_factory.mktemp("killed"), "v3")
    assert lab.run(lab.args("whole")) == 0, lab.said()
    return lab


def test_a_run_killed_at_every_point_of_its_saves_ends_as_the_whole_one(lab):
    """One run, killed and resumed over and over: first at each file operation in turn up to the
    end of a resumed run's second save, then at random steps, then at each operation of its end."""
    assert lab.run(lab.args("parts"), at_step=5) == KILLED
    hit, steps, number = [], [], 1
    while True:  # each time one operation further
        assert lab.resume("parts", at_operation=number) == KILLED, lab.said()
        hit.append(lab.notes()[-1])
        saves = lab.notes().count("replace checkpoint.pt")
        number += 1
        if saves == 2 and hit[-1] == "replace best.pt":
            break
    draw = random.Random(1)
    at = torch.load(lab.folder / "parts" / "checkpoint.pt", weights_only=True)["step"]
    while at < 36:
        step = at + draw.randrange(1, 6)
        assert lab.resume("parts", at_step=step) == KILLED, lab.said()
        assert f"resuming {lab.folder / 'parts'} at step {at}\n" in lab.said()
        steps.append(step)
        at = step - step % 4
    assert lab.resume("parts", at_operation=len(hit) + 1) == KILLED  # the last step is saved
    number = hit.index("open metrics.jsonl") - 4  # what comes before was hit above
    while lab.resume("parts", at_operation=number) == KILLED:
        hit.append(lab.notes()[-1])
        number += 1
    save = [f"{what} checkpoint.pt.tmp" for what in ("open", "write")]
    save += [f"replace checkpoint{name}.pt" for name in (".previous", "")]
    save += ["open best.pt.tmp", "write best.pt.tmp", "replace best.pt", "fsync"]
    save += [f"{what} {name}" for what in ("open", "write") for name in LOGS]
    save += [f"replace {name}" for name in (*LOGS, "model.safetensors", "loss.png", "result.json")]
    assert set(save) <= set(hit), set(save) - set(hit)
    assert len(hit) + len(steps) >= 20 and len(set(steps)) >= 5
    assert lab.contents("parts") == lab.contents("whole")


LOGS = ("metrics.jsonl", "samples.txt")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_goes_on_after_kills_from_outside(version, tmp_path):
    lab = Lab(tmp_path, version)
    assert lab.run(lab.args("whole")) == 0, lab.said()
    draw, first, codes = random.Random(version), True, []
    while len(codes) < 3:
        args = ["--resume", "--out-dir", tmp_path / "parts"]
        process = lab.start(lab.args("parts") if first else args)
        wait = draw.randrange(2, 14)  # steps; where the kill really lands is the scheduler's choice
        while process.is_alive() and steps(lab) < wait:
            time.sleep(0.001)
        process.kill()
        process.join()
        codes.append(process.exitcode)
        first = not (tmp_path / "parts" / "checkpoint.pt").exists()
    assert KILLED in codes
    assert lab.resume("parts") == 0, lab.said()
    assert lab.contents("parts") == lab.contents("whole")


def steps(lab):
    """How many steps the last attempt has noted."""
    path = lab.folder / "notes"
    return path.read_text(encoding="utf-8").count("step") if path.exists() else 0


def digests(folder):
    """name -> hash, of every file in a folder but the lock."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_new_run_killed_while_it_begins_loses_nothing_of_the_old_one(lab):
    """Killed at each file operation up to the first checkpoint, while the old run moves aside."""
    assert lab.run(lab.args("old", seed=7, steps=0)) == 0, lab.said()
    assert lab.run(lab.args("new", seed=8, steps=0)) == 0, lab.said()
    old, whole, hit = digests(lab.folder / "old"), lab.contents("new"), []
    while hit[-1:] != ["replace checkpoint.pt"]:
        case = f"case{len(hit)}"
        out = lab.folder / case / "run"
        shutil.copytree(lab.folder / "old", out)
        assert lab.run(lab.args(out, seed=8, steps=0), at_operation=len(hit) + 1) == KILLED
        hit.append(lab.notes()[-1])
        left = digests(out).items() | digests(out.with_name("run.1")).items()
        assert old.items() <= left, hit[-1]
        if len(hit) % 4 == 0:  # one clear line, or it goes on: never a run mixed of both
            status = lab.resume(Path(case) / "run")
            assert status == 0 or (status == 2 and lab.said().count("\n") == 1), lab.said()
        assert lab.run(lab.args(out, seed=8, steps=0)) == 0, lab.said()
        assert old.items() <= digests(out.with_name("run.1")).items(), hit[-1]
        assert lab.contents(out) == whole
    moves = [f"move aside {name}" for name in FILES if name in old]
    assert hit[: len(moves)] == moves and len(hit) > len(moves) + 10
