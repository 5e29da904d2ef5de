"""Atomic files and JSON read through a schema: nothing lost, nothing outside, no traceback."""

import errno
import json
import os
import random
import sys
from pathlib import Path

from common import files
from common.errors import UserError
from common.files import atomic_write, read_json, read_json_lines, write_json

import msgspec
import pytest
from lineage import refused

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")


class Note(msgspec.Struct):
    name: str
    size: float = 0.0


def test_what_is_written_is_read_again_as_its_schema(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, Note("é", 0.1 + 0.2))
    assert read_json(path, "a note", Note) == Note("é", 0.1 + 0.2)
    assert read_json(path, "a note") == {"name": "é", "size": 0.1 + 0.2}
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "size": 1})
    assert read_json(path, "a note", Note) == Note("é", 1.0)


def test_a_flipped_bit_is_noticed_wherever_it_is_and_a_file_without_checksum_believed(tmp_path):
    path, draw, noticed = tmp_path / "a.json", random.Random(4), 0
    write_json(path, Note("a name"))
    data = path.read_bytes()
    for place in draw.sample(range(len(data)), 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read_json(path, "a note", Note) == Note("a name")
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error), error
    assert noticed > 40  # the others: white space, or the name of the checksum's own field
    path.write_text('{"name": "b", "unknown": []}', encoding="utf-8")
    assert read_json(path, "a note", Note) == Note("b")


DAMAGED = [b"", b'{"name": "a"', b"[1, 2]", b"3", b"null", b"\xff\xfe\0", b'{"size": 1}']
DAMAGED += [b'{"name": 3}']
DAMAGED += [b'{"name": "a", "size": NaN}', b'{"name": "a", "size": 1e999}', b'{"name": "\\ud800"}']
DAMAGED += [b"[" * 100_000, b'{"name": ' + b'{"a": ' * 5000, b'{"name": "a", "checksum": 1}']
DAMAGED += [b'{"name": "a", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}"]
DAMAGED += [b" " * (files.LARGEST_JSON + 1)]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:20]))
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with refused("a.json") as error:
        read_json(path, "a note", Note)
    assert len(str(error.value)) < 300 + len(str(path))


def test_the_last_line_of_several_may_be_half_written(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b"}\n{"na', encoding="utf-8")
    assert read_json_lines(path, "notes", Note) == [Note("a"), Note("b")]
    for damaged in ('{"name": "a"}\n{"na\n{"name": "b"}', "", '{"na', "[]\n"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match="a.jsonl is not notes"):
            read_json_lines(path, "notes", Note)


@POSIX
def test_what_is_no_regular_file_is_not_read(tmp_path):
    getattr(os, "mkfifo", pytest.skip)(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"can't read {path}"):
            read_json(path, "a note")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_text("one", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(tmp_path / "a", "w") as file:
            file.write("two")
            raise KeyboardInterrupt
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    write_json(path, Note("old"))
    monkeypatch.setattr(os, step, full)
    with refused("can't write .*a: .*(No space|space)"):
        write_json(path, Note("new"))
    assert read_json(path, "a note", Note) == Note("old")
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_before_is_kept_where_that_is_wanted(tmp_path):
    for text in (b"one", b"two"):
        with atomic_write(tmp_path / "a", previous=tmp_path / "b") as file:
            file.write(text)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"two", b"one")


@POSIX
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder", "device"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    other, path = tmp_path / "other", tmp_path / "path"
    other.write_text("mine", encoding="utf-8")
    if kind in ("link", "dangling"):
        path.symlink_to(other if kind == "link" else tmp_path / "nowhere")
    elif kind == "device":
        path = Path("/dev/null")
    else:
        getattr(os, "mkfifo", pytest.skip)(path) if kind == "fifo" else path.mkdir()
    before = sorted(os.listdir(tmp_path)), path.lstat()
    with refused("only regular files are replaced: give another path"):
        write_json(path, Note("x"))
    assert other.read_text(encoding="utf-8") == "mine"
    assert (sorted(os.listdir(tmp_path)), path.lstat()) == before


def test_a_link_under_the_old_temporary_name_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine", encoding="utf-8")
    if sys.platform != "win32":
        (tmp_path / "a.tmp").symlink_to(other)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert other.read_text(encoding="utf-8") == "mine" and (tmp_path / "a").read_bytes() == b"x"
