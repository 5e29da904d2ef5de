"""What a run finds on its disk may be damaged, another run's, or made to do harm: it is noticed and
named in one line, and no code in it is run. A disk that is full loses nothing that was saved."""

import contextlib
import errno
import io
import os
import pickle
import random
import re
import shutil
import sys
import tracemalloc
import zipfile
from pathlib import Path

from common.errors import UserError
from common.training.checkpoint import digest, read_checkpoint

import pytest
import torch
from lab import KILLED, Lab, plain
from lineage import edit_json, load, read, refused, run


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """v3, and finished runs of it: `whole`, and `other` of another seed."""
    lab = Lab(tmp_path_factory.mktemp("damaged"), "v3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEAGE_CACHE", str(lab.folder / "cache"))
        for name, seed in (("whole", 1), ("other", 2)):
            run(lab.module, patch, lab.args(name, steps=12, seed=seed))
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


def keep(checkpoint, path):
    """Save it with a checksum that fits."""
    rest = {name: value for name, value in checkpoint.items() if name != "sha256"}
    torch.save({**rest, "sha256": digest(rest)}, path)


def refusal(monkeypatch, *args):
    """The one line with which v3 ends."""
    with refused() as caught:
        run(load("v3"), monkeypatch, args)
    assert len(str(caught.value)) < 500
    return str(caught.value)


# ---- Full disks ----------------------------------------------------------------------------------


WRITTEN = """-train-bpe 1, story.txt-bpe 1, script.py 1, tokenizer.json 1, config.json 1,
    metrics.jsonl 2, metrics.jsonl 3, samples.txt 4, checkpoint.pt 1, checkpoint.pt 3, best.pt 2,
    model.safetensors 1, result.json 1"""  # each file, and the time at which the disk is full


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
    assert lab.contents(tmp_path / "run") == lab.contents("whole")


# ---- Damage --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoint_with_a_flipped_bit_is_noticed_wherever_it_is(out):
    """Or the bit matters to nobody: what is read is then the same, bit for bit."""
    path, draw = out / "checkpoint.pt", random.Random(3)
    whole, data = plain(read_checkpoint(path)), path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [part.filename.encode() for part in archive.infolist()]
        heads = [part.header_offset for part in archive.infolist()]
        directory = range(archive.start_dir, len(data))
    places = [draw.randrange(len(data)) for _ in range(100)] + draw.sample(directory, 100)
    places += [draw.choice(heads) + draw.randrange(60) for _ in range(100)]
    places = [(place, draw.randrange(8)) for place in places]
    # A part that the directory calls a folder is whole for Python, and zeros for torch.
    places += [(data.index(name, directory[0]) - 8, 4) for name in names]
    noticed = 0
    for place, bit in places:
        path.write_bytes(data)
        flip(path, place, bit)
        try:
            assert plain(read_checkpoint(path)) == whole, place
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert noticed > 200
    for length in (0, 1, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="checkpoint.pt"):
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
    assert lab.contents("copy") == lab.contents("whole")


def test_damaged_weights_give_way_to_the_last_good_ones(out, monkeypatch, capfd):
    flip(out / "best.pt", 10_000)
    run(load("v3"), monkeypatch, ["--sample-only", "--out-dir", out])
    said = capfd.readouterr()
    assert f"{out / 'best.pt'} is damaged" in said.err and said.out.startswith("The")
    assert f"{out / 'checkpoint.pt'} is used instead" in said.err
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        flip(out / name, 10_000)
    for flag in ("--resume", "--sample-only"):
        assert "is damaged" in refusal(monkeypatch, flag, "--out-dir", out)


# ---- Files of another run or program -------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_and_results_of_another_seed_are_noticed(out, monkeypatch, capsys):
    whole, other = out.parent / "whole", out.parent / "other"
    shutil.copy(other / "best.pt", out)
    said = refusal(monkeypatch, "--sample-only", "--out-dir", out, "--seed", "5")
    assert "seed is 2, not 1" in said and str(out / "best.pt") in said
    shutil.copy(other / "checkpoint.pt", out)
    assert "seed is 2, not 1" in refusal(monkeypatch, "--resume", "--out-dir", out)
    shutil.copy(whole / "checkpoint.pt", out)
    assert "seed is 2" in refusal(monkeypatch, "--resume", "--out-dir", out, "--steps", "16")
    shutil.copy(whole / "best.pt", out)
    shutil.copy(other / "result.json", out)
    run(load("v3"), monkeypatch, ["--resume", "--out-dir", out])
    assert "is of another run; it is written again" in capsys.readouterr().err
    assert read(out / "result.json")["seed"] == 1


def test_text_is_known_by_its_bytes_not_by_its_path(lab, out, tmp_path, monkeypatch):
    same = tmp_path / "elsewhere" / "story.txt"
    same.parent.mkdir()
    shutil.copy(lab.text, same)
    resume = ["--resume", "--out-dir", out, "--data", same, "--steps"]
    run(load("v3"), monkeypatch, [*resume, "13"])
    same.write_text(same.read_text(encoding="utf-8").replace("key", "dog"), encoding="utf-8")
    assert "was trained on another text" in refusal(monkeypatch, *resume, "14")
    shutil.copy(lab.text, same)
    with pytest.raises(SystemExit) as stop:  # it is finished: its text and its length are known
        run(load("v3"), monkeypatch, ["--resume", "--out-dir", out])
    assert stop.value.code == 0
    assert read(out / "config.json")["config"]["data"] == str(same)
    assert read(out / "result.json")["steps"] == 13


FOREIGN = [
    {"config.json": '{"model_type": "gpt2"}', "model.safetensors": "weights"},
    {"config.json": '{"version": 4, "config": {}}'},
    {"config.json": "[" * 3000},
    {"model.safetensors": "weights"},
    {"tokenizer.json": "{}", "notes.txt": ""},
    {"result.json": '{"accuracy": 1}'},
    {"checkpoint.pt": "weights", "train.py": ""},
]


@pytest.mark.parametrize("files", FOREIGN)
def test_folder_of_another_program_is_refused_and_left_alone(lab, tmp_path, files, monkeypatch):
    home = tmp_path / "project"
    home.mkdir()
    for name, text in files.items():
        (home / name).write_text(text, encoding="utf-8")
    said = refusal(monkeypatch, *lab.args(home, steps=0))
    assert f"{home} is not a run's folder" in said
    found = {path.name: path.read_text(encoding="utf-8") for path in home.iterdir()}
    assert found == files and [*tmp_path.iterdir()] == [home]


SPECIAL = "config.json metrics.jsonl checkpoint.pt tokenizer.json result.json .lock".split()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", SPECIAL)
def test_pipe_or_link_in_place_of_a_file_is_refused(out, tmp_path, monkeypatch, name):
    """A pipe would be waited for without end, and what a link leads to overwritten."""
    outside = tmp_path / "outside"
    for flag in ("--resume", "--sample-only"):
        (out / name).unlink(missing_ok=True)
        os.mkfifo(out / name)
        with pytest.MonkeyPatch.context() as patch:
            if flag == "--resume" or name in ("config.json", "tokenizer.json"):
                assert name in refusal(patch, flag, "--out-dir", out)
            else:
                run(load("v3"), patch, [flag, "--out-dir", out])
    (out / name).unlink()
    outside.write_text("mine", encoding="utf-8")
    os.symlink(outside, out / name)
    assert name in refusal(monkeypatch, "--resume", "--out-dir", out, "--steps", "13")
    assert outside.read_text(encoding="utf-8") == "mine"


# ---- Harm ----------------------------------------------------------------------------------------


class Evil:
    """Pickled, it calls a function where it is read."""

    def __init__(self, function, argument):
        self.called = function, (argument,)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_run(out, tmp_path, monkeypatch, form):
    trap, file = tmp_path / "trap", io.BytesIO()
    good = torch.load(out / "checkpoint.pt", weights_only=True)
    evil = {**good, "extra": Evil(os.mkdir, str(trap))}
    if form == "pickle":
        pickle.dump(evil, file)
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=form == "zip")
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt"):
        (out / name).write_bytes(file.getvalue())
    for flag in ("--resume", "--sample-only"):
        said = refusal(monkeypatch, flag, "--out-dir", out)
        assert ("no code in it was run" if form == "zip" else "not a whole checkpoint") in said
        assert "weights_only" not in said and not trap.exists()
    file.seek(0)  # read with less care, it would have been
    pickle.load(file) if form == "pickle" else torch.load(file, weights_only=False)
    assert trap.exists()


def rewritten(path, change, **options):
    """The archive with each part as change(name, bytes) gives it."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))


@contextlib.contextmanager
def deeper():
    """A stack that is high enough to pickle what is nested deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(limit)


def test_sizes_are_bounded_before_memory_is_taken(out):
    path = out / "checkpoint.pt"
    data = path.read_bytes()
    good = torch.load(path, weights_only=True)

    def refused(match):
        tracemalloc.start()
        with pytest.raises(UserError, match=match):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
        tracemalloc.stop()
        path.write_bytes(data)

    def bomb(name, part):
        return bytes(1 << 25) if name.endswith("data/0") else part

    rewritten(path, bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < len(data)
    refused("is compressed")

    with zipfile.ZipFile(path) as archive:
        [part] = [part for part in archive.infolist() if part.filename.endswith("data/0")]
        start = archive.start_dir
    place = data.index(part.filename.encode(), start) - 46  # its entry in the directory
    huge = (1 << 31).to_bytes(4, "little")
    path.write_bytes(data[: place + 20] + huge + huge + data[place + 28 :])
    refused("claims to hold more than its own length")

    # A tensor whose storage claims 10^12 numbers: K is a number of one byte, \x8a one of many.
    torch.save({"a": torch.zeros(77)}, path)
    many = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    rewritten(path, lambda name, part: part.replace(b"K\x4d", many))
    refused("can't be read as a checkpoint")

    torch.save({**good, "large": Evil(bytearray, 3_000_000_000)}, path)
    refused("holds more than tensors and plain values")
    torch.save({**good, "wide": torch.zeros(1).expand(750_000_000)}, path)  # 3 GB of one number
    refused("larger than its memory")
    deep, itself, many = [], [], [0]
    for _ in range(3000):
        deep = [deep]
    itself.append(itself)
    for _ in range(90):
        many = [many] * 10  # 10^90 numbers
    for value in (deep, itself, many):
        with deeper():
            torch.save({**good, "value": value}, path)
        with pytest.raises(UserError, match="nested too deep or are too many"):
            read_checkpoint(path)


@pytest.mark.slow
def test_checkpoint_that_fits_but_for_one_value_is_one_line(out, monkeypatch):
    module, path = load("v3"), out / "checkpoint.pt"
    good = torch.load(path, weights_only=True)
    (out / "checkpoint.previous.pt").unlink()
    model, optimizer, states = good["state"]["model"], good["state"]["optimizer"], []
    first = next(iter(model))
    states.append({"model": {**model, first: model[first][:1]}})
    states.append({"model": {**model, first: "weights"}})
    for state in (
        {"exp_avg": torch.zeros(1)},  # a fused AdamW would end the process
        {"exp_avg_sq": torch.zeros(2**20)},
        {"exp_avg": optimizer["state"][0]["exp_avg"].long()},
        {"exp_avg": None},
        {"step": torch.zeros(3)},
        {"extra": torch.zeros(1)},
    ):
        moments = {**optimizer["state"], 0: {**optimizer["state"][0], **state}}
        states.append({"optimizer": {**optimizer, "state": moments}})
    states += [{"optimizer": {"state": {0: {}}}}, {"optimizer": {"state": {99: {}}}}]
    states += [{"optimizer": []}, {"batches": torch.zeros(3)}, {"batches": 1}]
    changes = [{"state": {**good["state"], **state}} for state in states]
    damaged = {"metrics": [[1], [{"step": 1}], "x"], "best": [None], "seconds": ["x"]}
    damaged |= {"tokens": [-1], "samples": [3], "evaluated": [None]}
    for name, values in damaged.items():
        changes += [{"run": {**good["run"], name: value}} for value in values]
    changes += [{"run": {}}, {"run": []}, {"generators": []}, {"state": {}}, {"step": "12"}]
    changes += [{"generators": [{"torch": 1, "loss_sum": 1}]}, {"config": 3}, {"version": None}]
    for change in changes:
        keep({**good, **change}, path)
        args = ["--resume", "--out-dir", out, "--steps", "13"]
        assert str(out) in refusal(monkeypatch, *args), change
    for value in ([1], {}, torch.zeros(3)):
        torch.save(value, path)
        with pytest.raises(UserError, match="no checkpoint of this project"):
            read_checkpoint(path)
    optimizer["param_groups"][0].update(lr="fast", betas=None)  # those of the settings count
    keep({**good, "state": {**good["state"], "optimizer": optimizer}}, path)
    run(module, monkeypatch, ["--resume", "--out-dir", out, "--steps", "13"])


SETTINGS = [
    ({"vocab_size": 2**31}, "vocab_size is 300, not 2147483648"),
    ({"vocab_size": 2**40}, "too large"),
    ({"n_embd": 0}, "at least 1"),
    ({"n_embd": 2**15}, "n_embd is 16, not 32768"),
    ({"n_embd": [16]}, "damaged"),
    ({"learning_rate": float("nan")}, "above 0|not a run's settings"),
    ({"learning_rate": "fast"}, "damaged"),
    ({"prompt": "a\0b"}, "NUL"),
    ({"dtype": "float8"}, "dtype"),
    ({"resume": {"a": [[]]}}, "damaged"),
]


@pytest.mark.parametrize(("change", "message"), SETTINGS)
def test_settings_from_a_file_are_checked(out, monkeypatch, change, message):
    edit_json(out / "config.json", config=change)
    for flag in ("--resume", "--sample-only"):
        assert re.search(message, refusal(monkeypatch, flag, "--out-dir", out))


def test_no_path_from_a_file_leaves_its_folder(out, cache, monkeypatch):
    edit_json(out / "config.json", config={"out_dir": str(cache / "elsewhere")})
    good = torch.load(out / "checkpoint.pt", weights_only=True)
    good["run"]["folder"] = str(cache / "elsewhere")
    keep(good, out / "checkpoint.pt")
    shutil.copytree(out, cache / "runs" / "v3")
    monkeypatch.chdir(cache)
    run(load("v3"), monkeypatch, ["--resume", "--steps", "13"])
    assert read(cache / "runs" / "v3" / "result.json")["steps"] == 13
    assert not (cache / "elsewhere").exists()
