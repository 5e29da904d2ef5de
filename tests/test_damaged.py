"""A disk that is full loses nothing that was saved; a damaged checkpoint is noticed wherever the
damage is. (slow/situations.py has many kinds of damage.)"""

import errno
import os
import random
import shutil
from pathlib import Path

from common.training.checkpoint import read_checkpoint

import pytest
from damage import Evil, changed
from lab import KILLED, Lab, contents
from lineage import load, refused, run


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """v3, and a finished run of it: `whole`."""
    lab = Lab(tmp_path_factory.mktemp("damaged"), "v3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEAGE_CACHE", str(lab.folder / "cache"))
        run(lab.module, patch, lab.args("whole", steps=12))
    return lab


@pytest.fixture
def out(lab, monkeypatch):
    """A copy of the finished run that a test may damage."""
    monkeypatch.setenv("LINEAGE_CACHE", str(lab.folder / "cache"))
    shutil.rmtree(lab.folder / "copy", ignore_errors=True)
    return Path(shutil.copytree(lab.folder / "whole", lab.folder / "copy"))


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)


WRITTEN = """-train-bpe 1, story.txt-bpe 1, script.py 1, tokenizer.json 1, config.json 1,
    metrics.jsonl 2, metrics.jsonl 3, samples.txt 4, checkpoint.pt 1, checkpoint.pt 3, best.pt 4,
    best.pt 2, model.safetensors 1, result.json 1"""  # each file, and when the disk is full


@pytest.mark.slow
@pytest.mark.parametrize("file_and_time", WRITTEN.replace("\n", "").split(","))
def test_full_disk_loses_nothing_that_was_saved(lab, tmp_path, file_and_time):
    file, time = file_and_time.split()
    if file.endswith("-bpe"):
        shutil.rmtree(lab.folder / "cache")
    args = lab.args(tmp_path / "run", steps=12)
    room = 20_000 if file == "checkpoint.pt" else 10  # a checkpoint: in its middle
    assert lab.run(args, full=(file, int(time), room)) == 2, lab.said()
    said = lab.said().splitlines()[-1]
    assert said.startswith("v3.py: can't write ") and file.strip("-") in said, said
    assert os.strerror(errno.ENOSPC) in said and "Traceback" not in lab.said()
    assert not list(tmp_path.rglob("*.tmp")) and not list((lab.folder / "cache").glob("*.tmp"))
    if (tmp_path / "run" / "checkpoint.pt").exists():
        read_checkpoint(tmp_path / "run" / "checkpoint.pt")
        args = ["--resume", "--out-dir", tmp_path / "run"]
    assert lab.run(args) == 0, lab.said()
    assert contents(lab.folder / tmp_path / "run") == contents(lab.folder / "whole")


def test_checkpoint_with_a_flipped_bit_is_noticed_wherever_it_is(out):
    path, draw = out / "checkpoint.pt", random.Random(3)
    data = path.read_bytes()
    for place in [0, 1, len(data) - 1, *(draw.randrange(len(data)) for _ in range(20))]:
        path.write_bytes(data)
        flip(path, place, draw.randrange(8))
        with refused(f"{path} is damaged"):
            read_checkpoint(path)


@pytest.mark.slow
def test_damaged_checkpoint_gives_way_to_the_one_before(lab, out):
    flip(out / "checkpoint.pt", 10_000)
    (out / "result.json").unlink()
    good = (out / "checkpoint.previous.pt").read_bytes()
    assert lab.resume("copy", at_operation="replace checkpoint.pt") == KILLED
    assert f"{out / 'checkpoint.pt'} is damaged" in lab.said()
    assert f"{out / 'checkpoint.previous.pt'} is used instead" in lab.said()
    assert (out / "checkpoint.previous.pt").read_bytes() == good  # not replaced by the damaged one
    assert lab.resume("copy") == 0, lab.said()
    assert contents(lab.folder / "copy") == contents(lab.folder / "whole")


def test_damaged_weights_give_way_to_the_last_good_ones(out, monkeypatch, capfd):
    flip(out / "best.pt", 10_000)
    run(load("v3"), monkeypatch, ["--sample-only", "--out-dir", out])
    said = capfd.readouterr()
    assert f"{out / 'best.pt'} is damaged" in said.err and said.out.startswith("The")
    assert f"{out / 'checkpoint.pt'} is used instead" in said.err
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        flip(out / name, 10_000)
    for flag in ("--resume", "--sample-only"):
        with refused("is damaged"):
            run(load("v3"), monkeypatch, [flag, "--out-dir", out])


def test_no_code_in_a_checkpoint_runs(out, monkeypatch):
    monkeypatch.chdir(out)
    changed("extra", Evil())(out / "checkpoint.pt")
    with refused("holds more than tensors and plain values"):
        read_checkpoint(out / "checkpoint.pt")
    assert not (out / "trap").exists()
