"""What a run finds on its disk may be damaged, another's, or made to do harm: it is noticed, named,
and no code in it is run. A disk that is full loses nothing that was saved."""

import io
import json
import os
import pickle
import random
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from lab import KILLED, Lab, plain, resource
from lineage import flags, load, run, story_file

from common.data import load_corpus, token_file
from common.errors import UserError
from common.files import LARGEST_JSON, read_json
from results.store import read_result
from common.training.run import digest, read_checkpoint
from common.tokenizers import load_tokenizer, load_tokenizer_file


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """v3, and a finished run of it in `whole`."""
    lab = Lab(tmp_path_factory.mktemp("damaged"), "v3")
    assert lab.run(lab.args("whole", steps=12)) == 0, lab.said()
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


# ---- full disks ----------------------------------------------------------------------------------


@pytest.mark.skipif(resource is None, reason="Windows has no limit of a file's size")
@pytest.mark.parametrize(
    ("file", "time"),
    [
        *[("-train-bpe", 1), ("story.txt-bpe", 1), ("script.py", 1), ("tokenizer.json", 1)],
        *[("config.json", 1), ("metrics.jsonl", 1), ("metrics.jsonl", 3), ("samples.txt", 4)],
        *[("checkpoint.pt", 1), ("checkpoint.pt", 3), ("best.pt", 2)],
        *[("model.safetensors", 1), ("loss.png", 1), ("result.json", 1)],
    ],
)
def test_a_full_disk_loses_nothing_that_was_saved(lab, tmp_path, file, time):
    if file.endswith("-bpe"):
        shutil.rmtree(lab.folder / "cache")
    args = lab.args(tmp_path / "run", steps=12)
    room = 20_000 if file == "checkpoint.pt" else 10  # a checkpoint: in its middle
    assert lab.run(args, full=(file, time, room)) == 2, lab.said()
    said = lab.said().splitlines()[-1]
    assert said.startswith("v3.py: can't write ") and file.strip("-") in said, said
    assert "File too large" in said and "Traceback" not in lab.said()
    assert not list(tmp_path.rglob("*.tmp")) and not list((lab.folder / "cache").glob("*.tmp"))
    if (tmp_path / "run" / "checkpoint.pt").exists():
        read_checkpoint(tmp_path / "run" / "checkpoint.pt")
        args = ["--resume", "--out-dir", tmp_path / "run"]
    assert lab.run(args) == 0, lab.said()
    assert lab.contents(tmp_path / "run") == lab.contents("whole")


# ---- damage --------------------------------------------------------------------------------------


def test_a_checkpoint_with_a_flipped_bit_is_noticed_wherever_it_is(out):
    """Or the bit matters to nobody: what is read is then the same, bit for bit."""
    path, draw = out / "checkpoint.pt", random.Random(3)
    whole, data = plain(read_checkpoint(path)), path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [part.filename.encode() for part in archive.infolist()]
        heads = [part.header_offset for part in archive.infolist()]
        directory = range(archive.start_dir, len(data))
    places = [draw.randrange(len(data)) for _ in range(150)] + draw.sample(directory, 150)
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


def test_a_damaged_checkpoint_gives_way_to_the_one_before(lab, out):
    flip(out / "checkpoint.pt", 10_000)
    (out / "result.json").unlink()
    good = (out / "checkpoint.previous.pt").read_bytes()
    assert lab.resume("copy", at_operation=16) == KILLED  # config, metrics, samples: 12; a save
    assert lab.notes()[-1] == "replace checkpoint.pt"
    assert f"{out / 'checkpoint.pt'} is damaged" in lab.said()
    assert f"{out / 'checkpoint.previous.pt'} is used instead" in lab.said()
    assert (out / "checkpoint.previous.pt").read_bytes() == good  # not replaced by the damaged one
    assert lab.resume("copy") == 0, lab.said()
    assert lab.contents("copy") == lab.contents("whole")
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt"):
        flip(out / name, 10_000)
    for flag in ("--resume", "--sample-only"):
        assert lab.run([flag, "--out-dir", out]) == 2
        assert lab.said().count("\n") == 1 and "is damaged" in lab.said(), lab.said()


def test_damaged_best_weights_give_way_to_the_last_ones(lab, out):
    flip(out / "best.pt", 10_000)
    assert lab.run(["--sample-only", "--out-dir", out]) == 0
    assert f"{out / 'best.pt'} is damaged" in lab.said()
    assert f"{out / 'checkpoint.pt'} is used instead" in lab.said()
    assert "\nThe" in lab.said()


@pytest.mark.parametrize("name", ["config.json", "result.json", "tokenizer.json"])
def test_json_with_a_flipped_bit_is_noticed(out, monkeypatch, name):
    module, path, draw = load("v3"), out / name, random.Random(4)
    read = {
        "config.json": lambda: module.parse(module.Config, "", ["--resume", "--out-dir", str(out)]),
        "result.json": lambda: read_result(path),
        "tokenizer.json": lambda: load_tokenizer_file(path).sha256,
    }[name]
    whole, data, noticed = read(), path.read_bytes(), 0
    for place in [draw.randrange(len(data)) for _ in range(60)]:
        path.write_bytes(data)
        flip(path, place, draw.randrange(8))
        try:
            value = read()
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error), error
        else:  # white space, or the name of the checksum's own field
            value = value if name != "result.json" else {k: value.get(k) for k in whole}
            assert value == whole, place
    assert noticed > 40
    for length in (0, 10, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=name):
            read()


def test_a_token_file_of_another_type_is_made_again(out, lab):
    corpus = load_corpus(lab.text)
    tokenizer = load_tokenizer("bpe", corpus, 300)
    path = token_file(corpus, "train", tokenizer).path
    good = path.read_bytes()
    about = path.with_suffix(".json")
    for change in ('"dtype": "<i2"', '"dtype": "|O"', '"dtype": "<u2", "n_tokens": 1000000000000'):
        text = about.read_text(encoding="utf-8").replace('"dtype": "<u2"', change)
        about.write_text(text.replace('"checksum"', '"none"'), encoding="utf-8")
        found = token_file(corpus, "train", tokenizer)
        assert found.dtype == "<u2" and found.path.read_bytes() == good


# ---- harm ----------------------------------------------------------------------------------------


class Evil:
    """Pickled, it makes a folder where it is read."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (str(self.trap),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("flag", ["--resume", "--sample-only"])
def test_code_in_a_checkpoint_is_not_run(out, tmp_path, monkeypatch, form, flag):
    trap, file = tmp_path / "trap", io.BytesIO()
    evil = {**torch.load(out / "checkpoint.pt", weights_only=True), "extra": Evil(trap)}
    if form == "pickle":
        pickle.dump(evil, file)
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=form == "zip")
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt"):
        (out / name).write_bytes(file.getvalue())
    with pytest.raises(UserError) as caught:
        run(load("v3"), monkeypatch, [flag, "--out-dir", out])
    said = str(caught.value)
    assert ("no code in it was run" if form == "zip" else "not a whole checkpoint") in said
    assert "\n" not in said and "weights_only" not in said
    assert not trap.exists()
    file.seek(0)  # read with less care, it would have been
    pickle.load(file) if form == "pickle" else torch.load(file, weights_only=False)
    assert trap.exists()


def keep(checkpoint, path):
    """Save it with a checksum that fits."""
    rest = {name: value for name, value in checkpoint.items() if name != "sha256"}
    torch.save({**rest, "sha256": digest(rest)}, path)


def rewritten(path, change, **options):
    """The archive with each part as change(name, bytes) gives it."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))


def test_sizes_are_bounded_before_memory_is_taken(out):
    path = out / "checkpoint.pt"
    data = path.read_bytes()

    def refused(match):
        tracemalloc.start()
        with pytest.raises(UserError, match=match):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
        tracemalloc.stop()
        path.write_bytes(data)

    bomb = lambda name, part: bytes(1 << 25) if name.endswith("data/0") else part  # noqa: E731
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


def test_a_checkpoint_cannot_set_what_it_likes(out, monkeypatch, tmp_path):
    """Nor is one believed whose parts are of another kind."""
    module, path = load("v3"), out / "checkpoint.pt"
    good = torch.load(path, weights_only=True)
    (out / "result.json").unlink()
    good["run"]["folder"] = str(tmp_path / "elsewhere")
    keep(good, path)
    run(module, monkeypatch, ["--resume", "--out-dir", out])
    assert (out / "result.json").exists() and not (tmp_path / "elsewhere").exists()
    for change in (
        {"run": {}}, {"run": []}, {"generators": []}, {"generators": [{"torch": 1, "loss_sum": 1}]},
        {"state": {}}, {"state": {"model": {}}}, {"step": "12"}, {"config": 3}, {"version": None},
        {"run": {**good["run"], "metrics": [1]}}, {"run": {**good["run"], "best": None}},
    ):  # fmt: skip
        keep({**good, **change}, path)
        (out / "checkpoint.previous.pt").unlink(missing_ok=True)
        with pytest.raises(UserError):
            run(module, monkeypatch, ["--resume", "--out-dir", out, "--steps", "13"])
    torch.save([1], path)
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 2**31}, "vocab_size is 300, not 2147483648"),
        ({"vocab_size": 2**40}, "too large"),
        ({"n_embd": 0}, "at least 1"),
        ({"n_embd": 2**15}, "n_embd is 16, not 32768"),
        ({"n_embd": 2**30}, "too large"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"learning_rate": "fast"}, "damaged"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"dtype": "float8"}, "dtype"),
    ],
)
def test_settings_from_a_file_are_checked(out, monkeypatch, change, message):
    path = out / "config.json"
    saved = read_json(path, "settings")
    saved["config"].update(change)
    path.write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        run(load("v3"), monkeypatch, ["--resume", "--out-dir", out])


def test_huge_and_foreign_json_is_refused(tmp_path):
    path = tmp_path / "x.json"
    for content, reason in (
        (b" " * (LARGEST_JSON + 1), "more than"), (b"[" * 100_000, "not settings"),
        (b"[1]", "no JSON object"), (b"\xff\xfe{}", "not settings"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            read_json(path, "settings")


def test_a_vocabulary_that_claims_too_much_is_refused(out, tmp_path):
    saved = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "claims.json"
    claims = [{**saved, "vocab_size": 10**9}, {**saved, "special_tokens": {"<|endoftext|>": 10**9}}]
    claims.append({**saved, "merges": [[10**9, 10**9, "x"]]})
    ids = {chr(0x100 + i): i for i in range(256)}
    for vocab in ({**ids, "a": 10**9}, {"a": 10**9}):
        claims.append({"model": {"type": "BPE", "vocab": vocab, "merges": []}})
    for claim in claims:
        path.write_text(json.dumps(claim), encoding="utf-8")
        tracemalloc.start()
        with pytest.raises(UserError, match="claims.json"):
            load_tokenizer_file(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
        tracemalloc.stop()


def test_no_path_from_a_file_or_a_name_leaves_its_folder(out, cache, monkeypatch):
    saved = read_json(out / "config.json", "settings")
    saved["config"]["out_dir"] = str(cache / "elsewhere")
    (out / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    shutil.copytree(out, cache / "runs" / "v3")
    monkeypatch.chdir(cache)
    run(load("v3"), monkeypatch, ["--resume", "--steps", "13"])
    assert read_result(cache / "runs" / "v3" / "result.json")["steps"] == 13
    assert not (cache / "elsewhere").exists()
    for name in ("hf:../..", "hf:a/..", "hf:./b", "hf:a/b:../c", "hf:a/b:c\\d", "hf:a/b/../c"):
        with pytest.raises(UserError, match="is not hf:OWNER/NAME"):
            load_corpus(name)
    for name in ("../../up", "..", "a/b\\c", "C:\\x", "nul\n"):  # not opened
        corpus = load_corpus(story_file(cache))
        corpus.name = name
        token_file(corpus, "train", load_tokenizer("char", corpus, 300))
    assert {path.name for path in cache.iterdir()} == {"cache", "runs", "story.txt"}
    assert all(path.is_file() for path in (cache / "cache").iterdir())
