"""Runs that are killed, by a signal that lets nothing be said or tidied up, and go on as if they had
not been."""

import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from lab import KILLED, Lab
from lineage import VERSIONS

from common.training.run import FILES


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
