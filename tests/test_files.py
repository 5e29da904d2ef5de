"""Atomic files and JSON read through a schema: nothing lost, nothing outside, no traceback."""

import errno
import json
import os
import random
import sys

from common.errors import UserError
from common.files import atomic_write, read_json, write_json
from results.store import read_json_lines

import msgspec
import pytest
from inputs import BAD_JSON, label, link, put
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


DAMAGED = [*BAD_JSON.values(), b'{"size": 1}', b'{"name": 3}', b'{"name": "a", "checksum": 1}']
DAMAGED += [b'{"name": "a", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}"]


@POSIX
@pytest.mark.parametrize("content", DAMAGED, ids=label)
def test_damaged_json_is_one_line(tmp_path, content):
    path = put(tmp_path / "a.json", content)
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


SPECIAL = [link("other"), link("nowhere"), link("/dev/null"), os.mkfifo, os.mkdir]


@POSIX
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_replaced(tmp_path, kind):
    other, path = put(tmp_path / "other", "mine"), put(tmp_path / "path", kind)
    before = sorted(os.listdir(tmp_path)), path.lstat()
    with refused("only regular files are replaced: give another path"):
        write_json(path, Note("x"))
    assert other.read_text(encoding="utf-8") == "mine"
    assert (sorted(os.listdir(tmp_path)), path.lstat()) == before
