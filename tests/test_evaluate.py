"""A finished run opened again, and evaluated on both splits."""

import re
import shutil
import sys
from pathlib import Path

from common.data import load_corpus, token_file
from common.evaluation import evaluate as scores_of
from results import load_run, store
from results.evaluate import evaluate
from results.saved import load_script

import pytest
from lineage import edit_json, finished_run, load, read, refused


@pytest.fixture
def folder(finished_v3, tmp_path):
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished_v3, tmp_path / "v3"))


def test_both_splits_are_evaluated_side_by_side_and_sliding(folder, capsys):
    evaluate((str(folder),))
    found = read(folder / "evaluation.json")
    run = load_run(folder)
    corpus = load_corpus(run.config.data)
    T = run.config.context_length
    for split in ("validation", "test"):
        tokens = token_file(corpus, split, run.tokenizer).memmap()
        assert found["splits"][split]["tokens"] == len(tokens)
        for kind, stride in (("side_by_side", T), ("sliding", T // 2)):
            wanted = scores_of(run.model, tokens, T, corpus, split, stride)
            assert found["splits"][split][kind] == wanted
    assert "windows" not in found  # v3's learned positions end with the context
    bits = found["splits"]["test"]["sliding"]["bits_per_byte"]
    out = re.sub(" +", " ", capsys.readouterr().out)
    assert re.search(rf"\| {folder.name} \| test \|.*\| {bits:.3f} \|", out)


def test_longer_windows_are_evaluated_where_the_model_can_read_them(tmp_path):
    folder = finished_run("v0", tmp_path / "v0")
    evaluate((str(folder),), times=(1, 4))
    rows, context = read(folder / "evaluation.json")["windows"], load_run(folder).config
    found = [(row["times"], row["context"]) for row in rows]
    assert found == [(n, n * context.context_length) for n in (1, 4)]


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"config": {"n_head": "2"}}, "n_head is '2'"),
        ("config.json", {"config": {"n_head": 0}}, "--n-head 0: it has to be at least 1"),
        ("config.json", {"version": "v77"}, "no script 'v77'"),
        ("config.json", {"version": "../v3"}, "no script '../v3'"),
        ("config.json", {"version": "v2"}, "(lacks|is of another run)"),
        ("config.json", {"config": {"n_layer": 3}}, "n_layer is 2, not 3"),
        ("config.json", {"config": {"seed": 7}}, "is of another run"),
        ("result.json", {"seed": 7}, "is of another run"),
        ("result.json", {"val_loss": "1"}, "val_loss"),
    ],
)
def test_files_that_are_damaged_or_of_another_run_are_named(folder, file, changes, said):
    edit_json(folder / file, **changes)
    with refused(said):
        load_run(folder)
    if file == "result.json":  # a run that is not finished
        (folder / "result.json").unlink()
        with refused("python v3.py --resume --out-dir"):
            load_run(folder)


def test_a_version_is_its_published_run():
    run = load_run("v0", "cpu")
    assert (run.label, run.version, run.config.seed) == ("v0", "v0", 1)
    assert run.result.val_bits_per_byte == store.load_results("v0-sample")[1].val_bits_per_byte
    assert run.model.table.weight.shape[0] == run.tokenizer.vocab_size


def test_published_weights_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("results.saved.ROOT", tmp_path)
    path = tmp_path / "results" / "models" / "v0.safetensors"
    path.parent.mkdir(parents=True)
    for content in (None, b"", b"no weights"):
        if content is not None:
            path.write_bytes(content)
        with refused("v0.safetensors can't be read as weights"):
            load_run("v0")


def test_loading_an_ablation_leaves_its_version_as_it_was(tmp_path, monkeypatch):
    v0 = load("v0")
    path = tmp_path / "results" / "ablations" / "v0_twice.py"
    path.parent.mkdir(parents=True)
    path.write_text("import v0\nv0.LanguageModel.twice = 2\n", encoding="utf-8")
    module = load_script(path)
    assert module.v0.LanguageModel.twice == 2 and not hasattr(v0.LanguageModel, "twice")
    assert sys.modules["v0"] is v0
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert store.script_of("v0_twice") == path
