"""Runs that are killed, by a signal that lets nothing be said or tidied up, and go on as if they
had not been."""

import random
import shutil
from pathlib import Path

from common.training.folder import FILES

import pytest
import torch
from lab import KILLED, Lab, contents

STEPS = 80


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """v3 with dropout, and a run of it that was never killed, in `whole`."""
    lab = Lab(tmp_path_factory.mktemp("killed"), "v3")
    assert lab.run(lab.args("whole", steps=STEPS)) == 0, lab.said()
    return lab


def operations(*names, then=()):
    """The file operations that write these files whole, in order."""
    writing = ("open {}.tmp", "write {}.tmp", "fsync {}.tmp", *then, "replace {}")
    return [operation.format(name) for name in names for operation in writing]


SAVE = [
    # The first three are cut to what the checkpoint knows.
    *operations("config.json", "metrics.jsonl", "samples.txt", "best.pt"),
    *operations("checkpoint.pt", then=["replace checkpoint.previous.pt"]),
]


@pytest.mark.slow
def test_run_killed_at_every_file_operation_ends_as_the_whole_one(lab):
    """One run, killed and resumed over and over: at each operation of a save, then at random steps,
    then at each operation of its end."""
    assert lab.run(lab.args("parts", steps=STEPS), at_step=5) == KILLED
    for operation in SAVE:
        assert lab.resume("parts", at_operation=operation) == KILLED, (operation, lab.said())
    draw, steps = random.Random(1), []
    at = torch.load(lab.folder / "parts" / "checkpoint.pt", weights_only=True)["step"]
    while at < STEPS - 10:
        steps.append(at + draw.randrange(1, 10))
        assert lab.resume("parts", at_step=steps[-1]) == KILLED, lab.said()
        assert f"resuming {lab.folder / 'parts'} at step {at}\n" in lab.said()
        at = steps[-1] - 1 - (steps[-1] - 1) % 4  # a step is saved after it was noted
    assert len(set(steps)) >= 5
    for operation in operations("model.safetensors", "result.json", "loss.png"):
        assert lab.resume("parts", at_operation=operation) == KILLED, (operation, lab.said())
    assert lab.resume("parts") == 0 and "is finished, nothing is left to do" in lab.said()
    assert contents(lab.folder / "parts") == contents(lab.folder / "whole")
    longer = ["--resume", "--out-dir", lab.folder / "parts", "--steps", STEPS + 20]
    assert lab.run(longer, at_step=STEPS + 9) == KILLED, lab.said()  # is no finished run any more
    assert not (lab.folder / "parts" / "result.json").exists()


def held(folder):
    """name -> bytes of every file in a folder but the lock."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.slow
def test_new_run_killed_while_it_begins_loses_nothing_of_the_old_one(lab):
    """Killed at each file operation up to the first checkpoint, while the old run moves aside."""
    assert lab.run(lab.args("old", seed=7, steps=0)) == 0, lab.said()
    assert lab.run(lab.args("new", seed=8, steps=0)) == 0, lab.said()
    old, whole, hit = held(lab.folder / "old"), contents(lab.folder / "new"), []
    while hit[-1:] != ["replace checkpoint.pt"]:
        case = f"case{len(hit)}"
        out = lab.folder / case / "run"
        shutil.copytree(lab.folder / "old", out)
        assert lab.run(lab.args(out, seed=8, steps=0), at_operation=len(hit) + 1) == KILLED
        hit.append(lab.notes()[-1])
        assert old.items() <= held(out).items() | held(out.with_name("run.1")).items(), hit[-1]
        if len(hit) % 4 == 0:  # one clear line, or it goes on: never a run mixed of both
            status = lab.resume(Path(case) / "run")
            assert status == 0 or (status == 2 and lab.said().count("\n") == 1), lab.said()
        if len(hit) % 2 == 0:
            assert lab.run(lab.args(out, seed=8, steps=0)) == 0, lab.said()
            assert old.items() <= held(out.with_name("run.1")).items(), hit[-1]
            assert contents(lab.folder / out) == whole
    moves = [f"move aside {name}" for name in FILES if name in old]
    assert hit[: len(moves)] == moves and len(hit) > len(moves) + 10
