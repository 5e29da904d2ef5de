"""The test split: judged as validation is, and only when asked."""

import json
import re

import pytest
from lineage import finished_run

from common import heldout
from common.cli import run_main
from common.data import load_corpus, token_file
from common.evaluation.evaluate import judge
from results.saved import open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished_run("v3", tmp_path_factory.mktemp("heldout") / "v3")


def test_the_test_split_is_judged_with_the_best_weights(folder, capsys):
    assert not (folder / "heldout.json").exists()
    heldout.held_out((str(folder),))
    found = json.loads((folder / "heldout.json").read_text(encoding="utf-8"))
    run = open_run(folder)
    corpus = load_corpus(run.config.data)
    tokens = token_file(corpus, "test", run.tokenizer).memmap()
    scores = judge(run.model, tokens, run.config.context_length, corpus, split="test")
    assert found == {"split": "test", "tokens": len(tokens), **scores}
    assert found["bits_per_byte"] != run.result["val_bits_per_byte"]
    row = f"| {folder.name} | {corpus.name} | {found['bits_per_byte']:.3f} |"
    assert row in re.sub(" +", " ", capsys.readouterr().out)
    assert not list(folder.glob("*.tmp"))


def test_errors_are_one_line(tmp_path, monkeypatch, capsys):
    for args, says in (([], "give the folder of a run"), ([str(tmp_path / "x")], "no run in")):
        monkeypatch.setattr("sys.argv", ["heldout.py", *args])
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: heldout.run_command(heldout.held_out, heldout.__doc__))
        told = capsys.readouterr().err
        assert stop.value.code == 2 and len(told.splitlines()) == 1 and says in told
