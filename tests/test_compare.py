"""Two published runs side by side, a run of one's own beside them, and the reference rows.

The runs are made up, as in test_results.py: what is said about them is the matter here.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from test_results import made_up, put

from results import compare, references
from results import tables as results
from common.cli import run_main
from common.errors import UserError
from common.evaluation.ngram import counting


def bare_project(tmp_path, monkeypatch):
    """A project of scripts v0 to v4 without results, in place of this one."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for number, version in enumerate(results.ORDER):
        text = f'"""{version}: the idea of {version}.\n\nMore."""\n' + "x = 1\n" * number
        (tmp_path / f"{version}.py").write_text(text, encoding="utf-8")
    (tmp_path / "data").mkdir()
    info = {"splits": {"validation": {"floor_bits_per_byte": 0.25}}}
    (tmp_path / "data" / "input.json").write_text(json.dumps(info), encoding="utf-8")
    return tmp_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return bare_project(tmp_path, monkeypatch)


def published(folder, name, bits, **changes):
    put(folder / "results", name, bits, **changes)


def called(monkeypatch, capsys, *args):
    """Exit status, standard output and standard error of `python -m results.tables ARGS`."""
    monkeypatch.setattr("sys.argv", ["results.py", *map(str, args)])
    try:
        run_main(results.main)
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


# ---- compare ----


def test_what_changed_between_two_versions(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    published(folder, "v2-sample", [1.30, 1.31, 1.32], config={"steps": 5, "n_head": 8, "seed": 1})
    config = {"steps": 9, "n_layer": 2, "n_head": 8, "seed": 2, "out_dir": "elsewhere"}
    published(folder, "v3-sample", [1.20, 1.22, 1.21], config=config)
    status, out, _ = called(monkeypatch, capsys, "compare", "v2", "v3")
    assert status == 0
    lines = out.splitlines()
    assert lines[:2] == ["diff v2.py v3.py: +2 −1 lines", "v3: the idea of v3."]
    start = lines.index("settings:")
    assert lines[start + 1 : start + 4] == ["  steps: 5 → 9", "  n_layer: – → 2", ""]
    fit = stats.ttest_rel([1.20, 1.22, 1.21], [1.30, 1.31, 1.32]).confidence_interval()
    assert "  v2-sample: 1.310 ± 0.010 (3)" in lines and "  v3-sample: 1.210 ± 0.010 (3)" in lines
    assert f"  Δ with its 95 % interval: -0.100 [{fit.low:+.3f}, {fit.high:+.3f}]" in lines
    assert f"{'A story of v2.':<48} | A story of v3." in lines
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("after", "claim"),
    [([1.29, 1.32, 1.32], "+0.000, n.s."), ([1.2, 1.2], "no claim: fewer than three seeds")],
)
def test_no_difference_is_claimed_without_evidence(folder, after, claim):
    published(folder, "v2-sample", [1.30, 1.31, 1.32])
    published(folder, "v2-sample-dot", after)
    found = [compare.published(name) for name in ("v2-sample", "v2-sample-dot")]
    text = compare.comparison(["v2-sample", "v2-sample-dot"], *found, 80)
    assert f"interval: {claim}" in text
    assert text.startswith("two runs of v2: the idea of v2.") and "  the same\n" in text


def test_samples_stand_below_each_other_where_it_is_narrow():
    texts = ["one two three four five six\n\nseven", "short"]
    wide = compare.beside(["a", "b"], texts, 80).splitlines()
    assert wide[0] == f"{'a':<38} | b"
    assert wide[2] == f"{'one two three four five six':<38} | short"
    assert wide[4] == f"{'seven':<38} |"
    narrow = compare.beside(["a", "b"], texts, 20)
    assert narrow == "a\n-\none two three four\nfive six\n\nseven\n\nb\n-\nshort"


def test_more_in_the_files_than_is_needed_changes_nothing(folder, monkeypatch, capsys):
    point = {"step": 0, "tokens": 0, "seconds": 0.0, "val_bits_per_byte": 2.5}
    more = {"curve": [point], "heldout": {"bits_per_byte": 2.5, "word_perplexity": None}}
    printed = []
    for extra in ({}, more):
        published(folder, "v2-sample", [1.30, 1.31, 1.32], **extra)
        published(folder, "v3-sample", [1.20, 1.22, 1.21], **extra)
        file = folder / "results" / "v3-sample-seed2.json"
        printed.append([called(monkeypatch, capsys, *args)
                        for args in (["compare", "v2.py", "v3"], ["check", file])])  # fmt: skip
    assert printed[0] == printed[1]
    assert [status for status, _, _ in printed[0]] == [0, 0]
    assert "as expected" in printed[0][1][1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["v2-sample", "v9-sample"], "no published run is called v9-sample; there are: v2-sample"),
        (["v2", "v3"], "no published run is called v3-sample"),
        (["v2", "v2-wikitext-2"], "are of different texts"),
        (["v2"], "required"),
        (["v2", "v2-sample-dot"], "make it: python -m results.tables publish --only v2-sample-dot"),
        (["v2", "runs/v3"], "runs/v3 is a path; compare takes the names of published runs"),
        (["v2", "v2", "--data", "nowhere"], "no published run is called v2-nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line(folder, monkeypatch, capsys, args, said):
    published(folder, "v2-sample", [1.30, 1.31, 1.32])
    published(folder, "v2-wikitext-2", [1.30], data={"name": "wikitext-2"})
    status, out, err = called(monkeypatch, capsys, "compare", *args)
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err


# ---- check ----


def test_the_prediction_interval_by_hand():
    """1, 2, 3: mean 2, deviation 1; t with two degrees of freedom is 4.303; √(1 + 1/3)."""
    half = 4.3026527 * math.sqrt(4 / 3)
    assert compare.prediction_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))
    assert compare.prediction_interval([1.0, 1.1]) is None


def test_nineteen_of_twenty_new_runs_are_as_expected():
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        *values, new = draw.normal(1.7, 0.01, 4)
        low, high = compare.prediction_interval(values)
        inside += low <= new <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


BITS = [1.705, 1.709, 1.713]  # the interval for one more: 1.709 ± 4.303 * 0.004 * √(4/3) = ± 0.020
SAME, OTHER = "a" * 64, "b" * 64
HERE = {"device": "cpu", "threads": 2, "torch": "2.13.0", "dtype": "float32",
        "code_sha256": SAME}  # fmt: skip
CHECKS = {
    "as expected": ({"seed": 7}, True, ["1.712 bits", "published 1.709 ± 0.004 (3): as expected"]),
    "too high": (
        {"val_bits_per_byte": 1.73}, False,
        ["higher than expected", "1.689 to 1.729", "nothing that is recorded differs"],
    ),
    "too low": ({"val_bits_per_byte": 1.688}, False, ["lower than expected"]),
    "another script": (
        {"val_bits_per_byte": 1.8, "environment": HERE | {"code_sha256": OTHER}}, False,
        ["look at what differs", "the code of v2.py: bbbbbbbbbbbb, published aaaaaaaaaaaa"],
    ),
    "another torch": (
        {"val_bits_per_byte": 1.8, "environment": HERE | {"torch": "1.0"}}, False,
        ["torch: 1.0, published 2.13.0"],
    ),
    "another vocabulary": (
        {"val_bits_per_byte": 1.8, "tokenizer": {"vocab_size": 9, "sha256": OTHER}}, False,
        ["the vocabulary: bbbbbbbbbbbb, published aaaaaaaaaaaa"],
    ),
    "another text": (
        {"data": {"name": "sample", "sha256": OTHER}}, False, ["another text of the name sample"],
    ),
    "another corpus": ({"data": {"name": "mine.txt"}}, False, ["no run of v2 on mine.txt"]),
    "another version": ({"version": "v3"}, False, ["no run of v3 on sample"]),
    "other settings": (
        {"config": {"attention": "full", "steps": 10, "dtype": "bfloat16", "seed": 4}}, False,
        ["don't compare. From v2-sample differ:", "steps: 10, published 1500",
         "dtype: bfloat16, published float32"],
    ),
    "nearest to the variant": (
        {"config": {"attention": "dot", "steps": 10, "dtype": "float32"}}, False,
        ["From v2-sample-dot differ:", "steps: 10, published 1500"],
    ),
    "a setting that the published ones did not have yet, off": (
        {"config": {"attention": "full", "steps": 1500, "dtype": "float32", "mimetic_start": False}},
        True, ["as expected"],
    ),
    "that one on": (
        {"config": {"attention": "full", "steps": 1500, "dtype": "float32", "mimetic_start": True}},
        False, ["mimetic_start: True, published False"],
    ),
    "the variant itself": (
        {"config": {"attention": "dot", "steps": 1500, "dtype": "float32", "prompt": "A"}}, False,
        ["published 1.900 ± 0.010 (3): lower than expected"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "agrees", "said"), CHECKS.values(), ids=CHECKS)
def test_check(folder, monkeypatch, capsys, changes, agrees, said):
    about = {"environment": HERE, "tokenizer": {"vocab_size": 9, "sha256": SAME},
             "data": {"name": "sample", "sha256": SAME}}  # fmt: skip
    config = {"attention": "full", "steps": 1500, "dtype": "float32", "seed": 1}
    published(folder, "v2-sample", BITS, config=config, **about)
    dot = config | {"attention": "dot"}
    published(folder, "v2-sample-dot", [1.89, 1.9, 1.91], config=dot, **about)
    published(folder, "v2-wikitext-2", [3.0], **about | {"data": {"name": "wikitext-2"}})
    result = made_up("v2", 4, 1.712, config=config | {"seed": 4}, **about) | changes
    run = folder / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    status, out, err = called(monkeypatch, capsys, "check", run)
    assert (status, err) == (int(not agrees), "")
    assert all(words in out for words in said), out


def test_a_comment_in_the_script_is_no_difference(folder, monkeypatch, capsys):
    run = folder / "runs" / "mine"
    run.mkdir(parents=True)
    script = run / "script.py"
    script.write_text("x = 1\n", encoding="utf-8")
    code = results.code_sha256(script)
    about = {"environment": HERE | {"code_sha256": code, "script_sha256": SAME}}
    published(folder, "v2-sample", BITS, **about)
    mine = {key: value for key, value in HERE.items() if key != "code_sha256"}
    result = made_up("v2", 4, 1.8, environment=mine | {"script_sha256": OTHER})
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    for text, said in (('"""Says."""\nx = 1  # one\n', "nothing that is recorded differs"),
                       ("x = 2\n", "the code of v2.py")):  # fmt: skip
        script.write_text(text, encoding="utf-8")
        status, out, err = called(monkeypatch, capsys, "check", run)
        assert (status, err) == (1, "") and said in out


def test_one_published_run_says_nothing_of_how_much_they_vary(folder):
    published(folder, "v2-sample", [1.7])
    agrees, text = compare.verdict(made_up("v2", 1, 1.7))
    assert not agrees and "fewer than three published runs" in text


def test_a_folder_without_a_finished_run_is_one_line(folder, monkeypatch, capsys):
    status, out, err = called(monkeypatch, capsys, "check", folder / "runs" / "v2")
    assert (status, out, err.count("\n")) == (2, "", 1) and "no finished run in" in err


def test_what_to_do_with_a_folder_without_a_result(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "half").mkdir()
    settings = {"version": "v3", "config": {}}
    (folder / "half" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "runs" / "v2").mkdir(parents=True)
    (folder / "runs" / "v2" / "result.json").write_text("{}", encoding="utf-8")
    for run, said in (
        ("half", "go on with python v3.py --resume --out-dir half"),
        ("v2", f"did you mean {Path('runs/v2')}?"),
        ("v3", "make one"),
    ):
        status, out, err = called(monkeypatch, capsys, "check", run)
        assert (status, out, err.count("\n")) == (2, "", 1) and said in err


# ---- reference rows ----


class Corpus(SimpleNamespace):
    def words(self, split):
        return self.n_words


def a_corpus(n_words=None):
    sizes = {"train": 4000, "validation": 400}
    return Corpus(name="made up", sha256=SAME, n_bytes=sizes, n_words=n_words)


def test_the_reference_rows_are_what_counting_gives(monkeypatch):
    draw = np.random.default_rng(0)
    tokens = {"train": draw.geometric(0.3, 900) % 9, "validation": draw.geometric(0.3, 90) % 9}
    files = {split: SimpleNamespace(memmap=lambda ids=ids: ids) for split, ids in tokens.items()}
    monkeypatch.setattr(references, "token_file", lambda corpus, split, tokenizer: files[split])
    tokenizer = SimpleNamespace(kind="bpe", vocab_size=9, sha256=OTHER)
    found = references.counted(a_corpus(n_words=50), tokenizer)
    for row, order in zip(found["rows"], (2, 5), strict=True):
        bits = counting(tokens["train"], tokens["validation"], tokenizer, a_corpus(), order)
        assert row["val_bits_per_byte"] == bits
        # a word costs on average bits * 400 bytes / 50 words
        assert row["val_word_perplexity"] == pytest.approx(2 ** (bits * 8))
    assert found["data"]["sha256"] == SAME and found["tokenizer"]["sha256"] == OTHER
    without_words = references.counted(a_corpus(), tokenizer)["rows"]
    assert [row["val_word_perplexity"] for row in without_words] == [None, None]


ROW = {"name": "bigrams, counted", "order": 2, "val_bits_per_byte": 1.5, "seconds": 0.6}


def reference(folder, corpus, *rows):
    (folder / "results").mkdir(exist_ok=True)
    path = folder / "results" / f"reference-{corpus}.json"
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")


def test_references_stand_beneath_the_versions_and_are_no_run(folder):
    published(folder, "v0-sample", [1.7, 1.8, 1.9])
    reference(folder, "sample", ROW | {"val_word_perplexity": None})
    head, rows = results.lineage_rows("sample")
    assert [row[0] for row in rows] == ["`v0`", ""]
    row = dict(zip(head, rows[1], strict=True))
    assert row["bits per byte (seeds)"] == "1.500" and row["above the floor"] == "1.250"
    assert row["the one idea"].startswith("bigrams, counted") and row["training"] == "0.6 s"
    assert compare.published_names() == ["v0-sample"]
    assert "publish` and `references`." in results.lineage_table("sample")


def test_wikitext_has_word_perplexities_and_those_of_others(folder):
    published(folder, "v0-wikitext-2", [1.7], val_word_perplexity=300.0)
    reference(folder, "wikitext-2", ROW | {"val_word_perplexity": 321.04})
    text = results.lineage_table("wikitext-2")
    assert "| 1.500 | 321.0 |" in text
    assert "AWD-LSTM 65.8" in text.splitlines()[-1] and "validation" in text.splitlines()[-1]
    published(folder, "v0-sample", [1.7])
    assert "AWD-LSTM" not in results.lineage_table("sample")


@pytest.mark.parametrize("corpus", references.VOCAB_SIZES)
def test_the_published_references_are_of_the_tables_text_and_vocabulary(corpus):
    found = results.read_reference(results.ROOT / "results" / f"reference-{corpus}.json")
    assert [row["order"] for row in found["rows"]] == list(references.ORDERS)
    assert found["rows"][0]["val_bits_per_byte"] > found["rows"][1]["val_bits_per_byte"]
    for version in results.ORDER[1:]:  # v0 has its own vocabulary
        for result in results.load_results(f"{version}-{corpus}").values():
            assert result["data"]["sha256"] == found["data"]["sha256"]
            assert result["tokenizer"]["sha256"] == found["tokenizer"]["sha256"]
            for bits in result.get("references", {}).values():  # v1 counts bigrams itself
                assert bits == pytest.approx(found["rows"][0]["val_bits_per_byte"])


@pytest.mark.parametrize("row", [{}, ROW, ROW | {"val_word_perplexity": "1"}, 3])
def test_damaged_references_are_named(folder, row):
    published(folder, "v0-sample", [1.7])
    reference(folder, "sample", row)
    with pytest.raises(UserError, match=r"reference-sample\.json is damaged"):
        results.lineage_table("sample")
