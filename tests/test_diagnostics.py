"""Diagnostics of generated text: measures worked out by hand, and texts of one length."""

import json
import types

import pytest
import torch
from lineage import edit_json, finished_run, load
from torch import nn

from common import diagnostics
from common.cli import run_main
from common.data import load_corpus
from common.diagnostics import continuations, cut_after, diagnose, measure, passages, words_of
from common.plots import read_metrics
from common.results import EXTRAS
from common.run import ASKED
from common.tokenizers import WordTokenizer


def test_words_are_letters_with_apostrophes_inside():
    assert words_of("Tom's key -- it isn’t 'here', 7 of_9!") == [
        "tom's", "key", "it", "isn’t", "here", "7", "of_9"]  # fmt: skip


def test_measures_by_hand():
    """the cat the cat the cat, a dog: 8 words, 4 different; pairs and triples counted by hand."""
    row = measure(["The cat the cat the cat, a dog."], {"the", "cat", "dog"})
    assert row["words"] == 8
    assert row["distinct_1"] == 4 / 8
    # the-cat x3, cat-the x2, cat-a, a-dog: 7 pairs, 4 different
    assert row["distinct_2"] == 4 / 7
    # the-cat-the x2, cat-the-cat x2, the-cat-a, cat-a-dog: 6 triples, 2 of them seen before
    assert row["repeated_trigrams"] == 2 / 6
    assert row["known_words"] == 7 / 8  # all but a
    assert row["punctuation"] == 1


def test_pairs_and_triples_do_not_reach_from_one_text_into_the_next():
    row = measure(["one two three", "one two three", "two three four"], set())
    assert row["words"] == 9 and row["distinct_1"] == 4 / 9
    assert row["distinct_2"] == 3 / 6  # one-two, two-three, three-four
    assert row["repeated_trigrams"] == 0  # each text has its one triple once
    assert row["known_words"] == 0


@pytest.mark.parametrize("text, share", [
    ('He said, "Go!" and went.', 1), ("a , b .", 0), ("a,b. c", 1 / 2), (", then. So", 1),
    ("what?! No", 1), ("none at all", None)])  # fmt: skip
def test_punctuation(text, share):
    assert measure([text], set())["punctuation"] == share


def test_nothing_written_is_nothing_measured():
    row = measure(["", "..."], {"a"})
    assert row["words"] == 0 and row["distinct_1"] is None and row["distinct_2"] is None
    assert row["repeated_trigrams"] is None and row["known_words"] is None


def test_texts_are_cut_behind_a_word_and_its_marks():
    text = 'One day, Tom said: "Yes." Then'
    assert cut_after(text, 2) == "One day,"
    assert cut_after(text, 5) == 'One day, Tom said: "Yes' + '."'
    assert cut_after(text, 50) == text and cut_after("", 3) == ""


def test_prompts_are_the_beginnings_of_the_validation_documents():
    corpus = load_corpus("sample")
    found = passages(corpus, 3, 20)
    stories = list(corpus.pieces("validation"))[:3]
    for (prompt, text), story in zip(found, stories, strict=True):
        assert story.startswith(prompt + text)
        assert len(words_of(prompt)) == 4 and len(words_of(text)) == 20


class Ends(nn.Module):
    """Always says the same word, and ends its text after every third token."""

    def __init__(self, tokenizer):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer

    def forward(self, idx):
        logits = torch.zeros(*idx.shape, self.tokenizer.vocab_size)
        ends = idx.shape[-1] % 3 == 0
        logits[..., self.tokenizer.end_of_text if ends else self.tokenizer.ids[" cat"]] = 99
        return logits


def test_a_text_that_ends_early_is_followed_by_another_one():
    tokenizer = WordTokenizer.train(["the cat sat on the mat , a cat"], 50)
    module = load("v3")
    run = types.SimpleNamespace(
        module=module, config=module.Config(context_length=64), tokenizer=tokenizer,
        model=Ends(tokenizer), device=torch.device("cpu"),
    )  # fmt: skip
    (text,), speed = continuations(run, [("the cat sat on", " the mat")], 7, 1, 0.8)
    assert words_of(text) == ["cat"] * 7 and text.count("\n") == 3 and speed > 0
    never = continuations(run, [("the cat sat", " on")], 7, 1, 0.8)[0]
    assert len(words_of(never[0])) == 0  # it ended ten times at once: no endless search


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run on the small text, whose validation split is too short for eight prompts."""
    return finished_run("v2", tmp_path_factory.mktemp("diagnostics") / "v2")


def test_the_table_and_the_file_in_the_run_s_folder(run_folder, capsys):
    diagnose((str(run_folder),), prompts=2, words=6, seed=3)
    lines = capsys.readouterr().out.strip().splitlines()
    head, _, source, mine = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    saved = json.loads((run_folder / "diagnostics.json").read_text(encoding="utf-8"))
    assert source[0] == "the text itself" and mine[0] == "v2"
    assert source[head.index("known words")] == "1.000"
    assert source[head.index("words")] == "12" and source[-1] == ""
    for key, name in list(diagnostics.COLUMNS.items())[1:-1]:
        cell = mine[head.index(name)]
        assert cell == ("–" if saved[key] is None else f"{saved[key]:.3f}")
    assert saved["prompts"] == 2 and saved["seed"] == 3 and saved["version"] == "v2"
    assert saved["source"]["words"] == 12 and saved["tokens_per_second"] > 0
    assert EXTRAS["diagnostics"](saved) and EXTRAS["curve"](read_metrics(run_folder))
    diagnose((str(run_folder),), prompts=2, words=6, seed=3)
    again = json.loads((run_folder / "diagnostics.json").read_text(encoding="utf-8"))
    assert {**again, "tokens_per_second": 0} == {**saved, "tokens_per_second": 0}


def test_a_new_run_in_the_folder_does_not_inherit_what_was_measured_before(tmp_path, capsys):
    folder = finished_run("v2", tmp_path / "v2")
    diagnose((str(folder),), prompts=2, words=6)
    for name in {*ASKED} - {"diagnostics.json"}:
        (folder / name).write_text("{}", encoding="utf-8")
    finished_run("v2", folder)
    for name in ASKED:
        assert not (folder / name).exists() and (tmp_path / "v2.1" / name).exists()


def test_a_run_that_is_trained_on_does_not_keep_what_was_measured_before(tmp_path, capsys):
    folder = finished_run("v2", tmp_path / "v2")
    for name in ASKED:
        (folder / name).write_text("{}", encoding="utf-8")
    finished_run("v2", folder, resume=True, steps=16)
    assert not any((folder / name).exists() for name in ASKED)


def test_errors_are_one_line(run_folder, tmp_path, monkeypatch, capsys):
    def fails(says, *args):
        monkeypatch.setattr("sys.argv", ["diagnostics.py", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: diagnostics.run_command(diagnose, diagnostics.__doc__))
        told = capsys.readouterr().err
        assert stop.value.code == 2 and len(told.splitlines()) == 1 and says in told, told

    fails("give the folder of a run")
    fails("no run in", tmp_path / "nothing")
    fails("did you mean --words", run_folder, "--wrods", 3)
    fails("has 4 passages of 10 words, not 8", run_folder, "--words", 6)
    other = finished_run("v2", tmp_path / "other" / "v2")
    edit_json(other / "config.json", config={"data": "sample"})
    capsys.readouterr()
    fails("runs of different data don't compare", run_folder, other)
    (other / "result.json").unlink()
    fails("is not finished", other)
    assert not list(tmp_path.rglob("diagnostics.json"))
