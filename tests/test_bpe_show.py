"""The command `show` with two vocabularies."""

from bpe_tokenizer import BPETokenizer
from common.tokenizers.bpe_cli import main

import pytest


def test_show_compares_two_vocabularies_word_by_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    BPETokenizer().save("bytes.json")
    BPETokenizer([(ord("t"), ord("h")), (256, ord("e"))]).save("the.json")
    main("show --vocab bytes.json --compare the.json".split() + ["the sea"])
    first, second, *counts = capsys.readouterr().out.splitlines()
    assert first == "[t][h][e]     [the]"
    assert second == "[ ][s][e][a]  [ ][s][e][a]"
    assert counts[0].startswith("bytes.json, 257 ids: 7 tokens for 7 bytes")
    assert counts[1].startswith("the.json, 259 ids: 5 tokens for 7 bytes")


def test_a_vocabulary_to_compare_with_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    BPETokenizer().save("bytes.json")
    with pytest.raises(SystemExit) as stop:
        main("show text --vocab bytes.json --compare missing.json".split())
    assert stop.value.code == 2 and "missing.json" in capsys.readouterr().err
