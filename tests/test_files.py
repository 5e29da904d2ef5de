"""Atomic files and JSON read through a schema: nothing lost, no traceback.

What else a file can hold or be is tried in test_bpe_files.py and slow/situations.py."""

import errno
import json
import os
import random
from unittest.mock import Mock

from common.errors import UserError
from common.files import read_json, write_json
from results.store import read_json_lines

import msgspec
import pytest


class Note(msgspec.Struct):
    name: str
    size: float = 0.0


def test_what_is_written_is_read_again_as_its_schema(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.json", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    write_json(path, Note("é", 0.1 + 0.2))
    assert synced == [path.stat().st_size]  # all of it, before it has its name
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


def test_the_last_line_of_several_may_be_half_written(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b"}\n{"na', encoding="utf-8")
    assert read_json_lines(path, "notes", Note) == [Note("a"), Note("b")]
    for damaged in ('{"name": "a"}\n{"na\n{"name": "b"}', "", '{"na', "[]\n"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match="a.jsonl is not notes"):
            read_json_lines(path, "notes", Note)


ENDS = [
    (OSError(errno.ENOSPC, "No space left on device"), UserError, "can't write .*a: .*No space"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(("raised", "ends", "message"), ENDS, ids=["full disk", "Ctrl-C"])
def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch, step, raised, ends, message):
    path = tmp_path / "a"
    write_json(path, Note("old"))
    monkeypatch.setattr(os, step, Mock(side_effect=raised))
    with pytest.raises(ends, match=message):
        write_json(path, Note("new"))
    assert read_json(path, "a note", Note) == Note("old")
    assert os.listdir(tmp_path) == ["a"]
