"""A finished run opened again, and evaluated on both splits."""

import re
import sys

from common.data import load_corpus, token_file
from common.evaluation import evaluate as scores_of
from results import load_run, store
from results.evaluate import evaluate
from results.saved import load_script

import pytest
from inputs import put
from lineage import edit_json, finished_run, load, read, refused


def test_both_splits_are_evaluated_side_by_side_and_sliding(copy_of_v3, capsys):
    evaluate((str(copy_of_v3),))
    found, run = read(copy_of_v3 / "evaluation.json"), load_run(copy_of_v3)
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
    assert re.search(rf"\| v3 \| test \|.*\| {bits:.3f} \|", out)


def test_longer_windows_are_evaluated_where_the_model_can_read_them(tmp_path):
    folder = finished_run("v4", tmp_path / "v4", long_contexts=False)
    evaluate((str(folder),), times=(1, 4))
    run, rows = load_run(folder), read(folder / "evaluation.json")["windows"]
    assert [(row["times"], row["context"]) for row in rows] == [(1, 16), (4, 64)]
    corpus = load_corpus(run.config.data)
    about = token_file(corpus, "validation", run.tokenizer).memmap(), 64, corpus, "validation"
    both = [scores_of(run.model, *about, stride)["bits_per_byte"] for stride in (64, 32)]
    assert [rows[1]["side_by_side"], rows[1]["sliding"]] == both


def test_a_text_that_has_moved_is_found_and_a_changed_script_is_noted(copy_of_v3, capsys):
    text = read(copy_of_v3 / "config.json")["config"]["data"]
    edit_json(copy_of_v3 / "config.json", config={"data": "gone.txt"})
    put(copy_of_v3 / "script.py", "x = 1\n")
    with refused("no such file or folder: gone.txt; --data-dir says where"):
        evaluate((str(copy_of_v3),))
    evaluate((str(copy_of_v3),), data_dir=text)
    assert "script.py differs from v3.py, which is used\n" in capsys.readouterr().err
    with refused("is another text than"):
        load_run(copy_of_v3).corpus(str(put(copy_of_v3.parent / "other.txt", "a text\n" * 99)))


WRONG = [  # what of config.json is changed, and what is said of it
    ({"config": {"n_head": "2"}}, "n_head is '2'"),
    ({"version": "../v3"}, "no script '../v3'"),
    ({"version": "v2"}, "(lacks|is of another run)"),
]


@pytest.mark.parametrize("changes, said", WRONG)
def test_settings_that_are_not_the_weights_are_refused(copy_of_v3, changes, said):
    edit_json(copy_of_v3 / "config.json", **changes)
    with refused(said):
        load_run(copy_of_v3)


def test_a_version_is_its_published_run():
    run = load_run("v0", "cpu")
    assert (run.label, run.version, run.config.seed) == ("v0", "v0", 1)
    assert run.result.val_bits_per_byte == store.load_results("v0-sample")[1].val_bits_per_byte
    assert run.model.table.weight.shape[0] == run.tokenizer.vocab_size


def test_published_weights_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("results.saved.ROOT", tmp_path)
    for content in (lambda path: None, "", "no weights"):
        put(tmp_path / "results" / "models" / "v0.safetensors", content)
        with refused("v0.safetensors can't be read as weights"):
            load_run("v0")


def test_loading_an_ablation_leaves_its_version_as_it_was(tmp_path, monkeypatch):
    v0 = load("v0")
    path, text = tmp_path / "results" / "ablations" / "v0_twice.py", "import v0\nv0.twice = 2\n"
    assert load_script(put(path, text)).v0.twice == 2 and not hasattr(v0, "twice")
    assert sys.modules["v0"] is v0
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert store.script_of("v0_twice") == path
