"""Two runs compared, a run of your own compared with the published ones, and counted n-grams."""

from common.cli import run_main
from common.data import Corpus, token_file
from common.evaluation import counted_ngrams
from common.tokenizers.classes import CharTokenizer
from results import compare, plan, references
from results.plan import Planned

import pytest
from lineage import refused, story_file
from published import SHA, made_up, put, write
from scipy import stats

OTHER = "b" * 64


@pytest.fixture
def folder(elsewhere, monkeypatch):
    """A project of scripts v2 and v3 without results, in place of this one."""
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("COLUMNS", "100")
    for number, version in enumerate(("v2", "v3")):
        text = f'"""{version}: the idea of {version}.\n\nMore."""\n\nx = {number}  # why\n'
        text += f"\n\nclass Config:\n    y = {number}\n" + "# comment\n\nz = 1\n" * number
        write(elsewhere / f"{version}.py", text)
    return elsewhere


def local(folder, version="v2", bits=1.712, seed=4, **changes):
    """A finished run of one's own: its folder."""
    run = folder / "runs" / "mine"
    write(run / "result.json", made_up(version, seed, bits, **changes))
    return run


def called(capsys, function, *args):
    """Exit status, standard output and standard error of a command."""
    try:
        run_main(lambda: function(*map(str, args)))
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


# ---- compare ----


def test_what_changed_between_two_versions(folder, capsys, monkeypatch):
    put(folder, "v2-sample", [1.30, 1.31, 1.32], config={"steps": 5, "seed": 1})
    config = {"steps": 9, "n_layer": 2, "seed": 2, "out_dir": "elsewhere"}
    put(folder, "v3-sample", [1.20, 1.22, 1.21], config=config)
    status, out, _ = called(capsys, compare.compare, "v2", "v3.py")
    lines = out.splitlines()
    assert (status, lines[:2]) == (0, ["diff v2.py v3.py: +6 −3 lines", "v3: the idea of v3."])
    code, settings = lines.index("code:"), lines.index("settings:")
    assert lines[code + 1 : settings] == ["  -x = 0  # why", "  +x = 1  # why", "  +z = 1", ""]
    assert lines[settings + 1 : settings + 4] == ["  steps: 5 → 9", "  n_layer: – → 2", ""]
    fit = stats.ttest_rel([1.20, 1.22, 1.21], [1.30, 1.31, 1.32]).confidence_interval()
    assert "  v2-sample: 1.310 ± 0.010 (3)" in lines
    assert f"  Δ with its 95 % interval: -0.100 [{fit.low:+.3f}, {fit.high:+.3f}]" in lines
    assert f"{'A story of v2.':<48} | A story of v3." in lines and max(map(len, lines)) <= 100
    monkeypatch.setenv("COLUMNS", "60")  # narrow: the samples stand below each other
    _, out, _ = called(capsys, compare.compare, "v2", "v3")
    assert "A story of v2.\n\nAnother one.\n\nv3-sample, seed 1\n---" in out


def test_own_runs_and_ablations_are_compared_by_their_own_scripts(folder, capsys, monkeypatch):
    put(folder, "v2-sample", [1.30, 1.31, 1.32], config={"steps": 5, "seed": 1})
    run = local(folder, config={"steps": 7, "seed": 4})
    write(run / "script.py", '"""Old."""\nx = 5\n')
    for pair in (("v2", run), ("v2-sample", "runs/mine"), (run, run)):
        status, out, _ = called(capsys, compare.compare, *pair)
        assert status == 0 and "no claim: fewer than three seeds in common" in out
        assert out.startswith("two runs of v2: the idea of v2.")
        assert ("steps: 5 → 7" in out and "+x = 5" in out) == (pair[0] != run)
    assert "code:\n  the same" in out and "settings:\n  the same" in out
    ablation = Planned("v2-sample-dot", script="results/ablations/v2_dot.py")
    write(folder / ablation.script, "x = 7\n")
    monkeypatch.setattr(plan, "PLAN", (ablation,))
    put(folder, "v2-sample-dot", [1.0], version="v2_dot")
    status, out, _ = called(capsys, compare.compare, "v2", "v2-sample-dot")
    assert status == 0 and "+x = 7" in out and out.startswith("diff v2.py v2_dot.py")


# ---- check ----


BITS = [1.705, 1.709, 1.713]  # the interval for one more: 1.709 ± 4.303 * 0.004 * √(4/3) = ± 0.020
CONFIG = {"n_head": 4, "steps": 1500, "dtype": "auto", "seed": 4}
VARIANT = CONFIG | {"n_head": 8}
HALF = {"bits": 1.8, "environment": {"dtype": "bfloat16"}, "config": {**CONFIG, "dtype": "any"}}
CODE = {"code_sha256": OTHER}
CHECKS = [
    ({"seed": 7}, 0, "1.712 bits per byte, published 1.709 ± 0.004 (3): as expected"),
    ({"tokenizer": {"lossless": False}}, 0, "1.712 (lossy) bits per byte"),
    ({"bits": 1.73}, 1, "higher than expected (one more run is expected from 1.689 to"),
    ({"bits": 1.8, "environment": CODE}, 1, "the code of v2.py: bbbbbbbbbbbb, published aaaaaaaaa"),
    ({"bits": 1.8, "environment": {"torch": "1.0"}}, 1, "torch: 1.0, published 2.13"),
    ({"bits": 1.8, "environment": {"threads": 8}}, 1, "threads: 8, published 2"),
    (HALF, 1, "(dtype): bfloat16, published"),
    ({"bits": 1.8, "tokenizer": {"sha256": OTHER}}, 1, "vocabulary: bbbbbbbbbbbb, published aaaa"),
    ({"data": {"sha256": OTHER}}, 1, "another text of the name sample"),
    ({"data": {"name": "a.txt"}}, 1, "no run of v2 on a.txt is published"),
    ({"version": "v3"}, 1, "no run of v3 on sample is published"),
    ({"config": CONFIG | {"steps": 10}}, 1, "Unlike v2-sample:\n  steps: 10, published 1500"),
    ({"config": VARIANT | {"steps": 10}}, 1, "Unlike v2-sample-wide"),
    ({"config": VARIANT}, 1, "published 1.900 ± 0.010 (3): lower than expected"),
    ({"version": "v3", "data": {"name": "few"}}, 1, "fewer than three published runs"),
]


@pytest.mark.parametrize(("changes", "status", "said"), CHECKS)
def test_check(folder, capsys, changes, status, said):
    about = {"environment": {"code_sha256": SHA}, "config": CONFIG}
    put(folder, "v2-sample", BITS, **about)
    put(folder, "v2-sample-wide", [1.89, 1.9, 1.91], **about | {"config": VARIANT})
    put(folder, "v2-wikitext-2", [3.0], data={"name": "wikitext-2"})
    put(folder, "v3-few", [1.7, 1.7], **about, data={"name": "few"})
    changes = {"config": CONFIG, **changes}
    changes["environment"] = about["environment"] | changes.get("environment", {})
    found = called(capsys, compare.check, local(folder, **changes))
    assert (found[0], found[2]) == (status, "") and said in found[1], found[1]


def test_a_comment_is_no_difference_and_the_code_of_an_imported_version_is_one(folder, capsys):
    script = local(folder, bits=1.8) / "script.py"
    write(script, "x = 1\n")
    put(folder, "v2-sample", BITS, environment={"code_sha256": compare.code_sha256(script)})
    for text, said in (
        ('"""Says."""\nimport os\nx = 1  # one\n', "nothing that is recorded differs"),
        ("x = 2\n", "the code of v2.py"),
        ("import v2\nx = 1\n", "the code of v2.py"),
    ):
        write(script, text)
        status, out, err = called(capsys, compare.check, script.parent)
        assert (status, err) == (1, "") and said in out


# ---- counted n-grams ----


def test_the_reference_rows_are_what_counting_gives(folder, monkeypatch):
    with refused("no run of v1 on sample is published"):
        references.references()  # with the published vocabulary
    text = story_file(folder).read_text(encoding="utf-8")
    tokenizer, texts = CharTokenizer.train([text]), {"train": text, "validation": text[:399] + "\n"}
    for counted in (True, False):
        corpus = Corpus("made up", False, lambda split: [texts.get(split)], counts_words=counted)
        tokens = [token_file(corpus, split, tokenizer).memmap() for split in texts]
        found = references.counted(corpus, tokenizer)
        assert found.data.sha256 == corpus.sha256 and found.tokenizer["sha256"] == tokenizer.sha256
        for row, order in zip(found.rows, (2, 5), strict=True):
            bits = counted_ngrams(*tokens, tokenizer, corpus, order)
            assert row.val_bits_per_byte == bits
            # a word costs on average bits * 400 bytes / words
            wanted = 2 ** (bits * 400 / corpus.words("validation")) if counted else None
            assert row.val_word_perplexity == pytest.approx(wanted)
