"""A finished run opened again, and evaluated on both splits."""

import json
import re
import sys

from common.data import load_corpus, token_file
from common.errors import UserError
from common.evaluation import evaluate as scores_of
from results import load_run, store
from results.evaluate import evaluate
from results.saved import load_script

import pytest
from lineage import edit_json, finished_run, load


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run("v3", tmp_path_factory.mktemp("evaluate") / "v3")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    copy = tmp_path / "v3"
    copy.mkdir()
    for path in finished.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_both_splits_are_evaluated_side_by_side_and_sliding(finished, capsys):
    evaluate((str(finished),))
    found = json.loads((finished / "evaluation.json").read_text(encoding="utf-8"))
    run = load_run(finished)
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
    assert re.search(rf"\| {finished.name} \| test \|.*\| {bits:.3f} \|", out)


def test_longer_windows_are_evaluated_where_the_model_can_read_them(tmp_path):
    folder = finished_run("v0", tmp_path / "v0")
    evaluate((str(folder),), times=(1, 4))
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    context = load_run(folder).config.context_length
    assert [(row["times"], row["context"]) for row in found["windows"]] == [
        (1, context),
        (4, 4 * context),
    ]


@pytest.mark.parametrize(("runs", "times"), [((), (1,)), (("x",), (0,)), (("x",), (1,))])
def test_wrong_arguments_are_one_line(runs, times, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="give the folder|has to be from 1|no run in x"):
        evaluate(runs, times)


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
    with pytest.raises(UserError, match=said) as error:
        load_run(folder)
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_finished_is_told_to_go_on(folder):
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="python v3.py --resume --out-dir"):
        load_run(folder)


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
