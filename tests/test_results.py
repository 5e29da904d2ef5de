"""The published results: differences with their intervals, resuming, and the README's tables.

The runs here are made up: result files written by hand, and scripts that write one in no time.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

import data.claims  # noqa: F401 - reads the world before a test moves results.ROOT
from results import tables as results
from common.cli import run_main
from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MARKER = "<!-- {}: made by python -m results.tables readme -->"


def made_up(version, seed, bits, **changes):
    """A run's result.json, as much of it as the tables show."""
    return {
        "version": version,
        "idea": f"the idea of {version}",
        "seed": seed,
        "data": {"name": "sample"},
        "config": {"seed": seed, "dropout": 0.0},
        "params": 1_234_567,
        "tokens_seen": 4_560_000,
        "val_bits_per_byte": bits,
        "tokens_per_second": 7654.3,
        "peak_rss_mb": 321.0,
        "seconds": 98.7,
        "environment": {"device": "cpu", "threads": 2, "torch": "2.13.0", "dtype": "float32"},
        "sample": f"A story of {version}.\n\nAnother one.",
        **changes,
    }


def put(folder, name, bits, **changes):
    """Result files of a name for seeds 1, 2, ... with these bits per byte."""
    folder.mkdir(exist_ok=True)
    for seed, value in enumerate(bits, 1):
        result = made_up(name.partition("-")[0], seed, value, **changes)
        (folder / f"{name}-seed{seed}.json").write_text(json.dumps(result), encoding="utf-8")


# A version that trains nothing: it notes how it was called and leaves a result. A file named
# `stop` makes it break off once, after its checkpoint, as Ctrl-C does.
SCRIPT = """
import json, sys
from pathlib import Path

args = sys.argv[1:]
here, version = Path(__file__).parent, Path(__file__).stem
with open(here / "calls.txt", "a") as file:
    print(version, *args, file=file)
out = Path(args[args.index("--out-dir") + 1])
out.mkdir(parents=True, exist_ok=True)
(out / "script.py").write_bytes(Path(__file__).read_bytes())
settings = out / "config.json"
if "--resume" in args:
    config = json.loads(settings.read_text())["config"]
else:
    flags = [flag[2:] for flag in args[::2]]
    config = {"dropout": 0.0, **dict(zip(flags, args[1::2]))}
    settings.write_text(json.dumps({"version": version, "config": config}))
if (here / "long").exists():  # saves where it is told to stop, but not at once
    import signal, time
    def save(*_):
        time.sleep(1)
        (out / "saved").touch()
        sys.exit(130)
    signal.signal(signal.SIGINT, save)
    signal.signal(signal.SIGTERM, save)
    (here / "long").unlink()
    print("training", flush=True)
    time.sleep(600)
(out / "checkpoint.pt").write_bytes(b"")
if (here / "stop").exists():
    (here / "stop").unlink()
    sys.exit(130)
result = json.loads((here / "result.json").read_text())
result |= {"version": version, "seed": int(config["seed"]), "config": config}
rows = [{"step": n, "tokens": n, "seconds": n, "val_bits_per_byte": 1.5} for n in (0, 9)]
(out / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
(out / "result.json").write_text(json.dumps(result))
"""

# In place of results.probes and results.diagnostics: the questions stop once where a file says so.
QUESTIONS = """
import json, sys
from pathlib import Path

here = Path(__file__).resolve().parent.parent
with open(here / "calls.txt", "a") as file:
    print(Path(__file__).stem, Path(sys.argv[1]).name, file=file)
if (here / "stop_questions").exists():
    (here / "stop_questions").unlink()
    sys.exit(1)
found = json.loads((here / "questions.json").read_text())[Path(__file__).stem]
Path(sys.argv[1], Path(__file__).stem + ".json").write_text(json.dumps(found))
"""
SHARES = dict.fromkeys(
    "distinct_1 distinct_2 repeated_trigrams known_words punctuation".split(), 0.5
)
FOUND = {
    "probes": {
        "questions_sha256": "a",
        "kinds": {"copying": {"n": 4, "accuracy": 0.5, "chance": 0.125}},
    },
    "diagnostics": {
        **SHARES, "words": 8, "prompts": 1, "temperature": 0.8, "tokens_per_second": 100.0,
        "source": {**SHARES, "words": 8},
    },
    "claims": {
        "stories": 20, "seed": 1, "temperature": 0.8,
        "found": dict.fromkeys("names things owners holders places unread".split(), [3, 4]),
    },
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with scripts v0 to v4, a README and the sample's floor, in place of this one."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for version in results.ORDER:
        text = SCRIPT + f"# {version}\n" * (1 + results.ORDER.index(version))
        (tmp_path / f"{version}.py").write_text(text, encoding="utf-8")
    for name in FOUND:
        (tmp_path / "common").mkdir(exist_ok=True)
        (tmp_path / "common" / f"{name}.py").write_text(QUESTIONS, encoding="utf-8")
    (tmp_path / "questions.json").write_text(json.dumps(FOUND), encoding="utf-8")
    (tmp_path / "result.json").write_text(json.dumps(made_up("", 0, 1.5)), encoding="utf-8")
    (tmp_path / "data").mkdir()
    info = {"splits": {"validation": {"floor_bits_per_byte": 0.25}}}
    (tmp_path / "data" / "input.json").write_text(json.dumps(info), encoding="utf-8")
    names = "\n\nProse between.\n\n".join(
        f"{MARKER.format(name)}\nold\n<!-- /{name} -->" for name in results.TABLES
    )
    readme = f"# Title\n\nBefore – with a dash.\n\n{names}\n\nAfter.\n"
    (tmp_path / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    return tmp_path


def calls(project, questions=False):
    """How the versions were called since the last time, or the questions' programs."""
    path = project / "calls.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line for line in lines if line.startswith("v") != questions]


def table(text, name):
    """The cells of the table (or the lines of whatever stands) between a name's markers."""
    inside = text.partition(MARKER.format(name))[2].partition(f"<!-- /{name} -->")[0]
    rows = [line for line in inside.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


# ---- differences ----

BEFORE = {1: 1.30, 2: 1.35, 3: 1.31, 4: 1.33, 9: 2.0}
AFTER = {1: 1.21, 2: 1.24, 3: 1.25, 4: 1.20, 5: 0.5}


def test_the_interval_is_student_s_on_the_seeds_in_common():
    before, after = ([one[seed] for seed in (1, 2, 3, 4)] for one in (BEFORE, AFTER))
    wanted = stats.ttest_rel(after, before).confidence_interval(0.95)
    mean, low, high = results.difference(BEFORE, AFTER)
    assert mean == pytest.approx(sum(after) / 4 - sum(before) / 4)
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    assert low < high < 0


def test_the_interval_by_hand():
    """Differences 1, 2, 3: their mean is 2, their deviation 1, and t with two degrees of freedom
    is 4.303 for 95 %."""
    before, after = {1: 0.0, 2: 0.0, 3: 0.0}, {1: 1.0, 2: 2.0, 3: 3.0}
    half = 4.3026527 / 3**0.5
    assert results.difference(before, after) == pytest.approx((2, 2 - half, 2 + half))


def test_fewer_than_three_seeds_in_common_claim_nothing():
    assert results.difference({1: 1.0, 2: 2.0, 3: 3.0}, {2: 1.0, 3: 2.0, 4: 3.0}) is None
    assert results.difference({}, {}) is None


def test_mean_and_deviation():
    assert results.mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3, 7**0.5))
    assert results.mean_and_deviation([5.0]) == (5.0, None)


# ---- tables ----


def test_the_readme_s_tables(project):
    put(project / "results", "v0-sample", [1.30, 1.31, 1.32])
    put(project / "results", "v1-sample", [1.20, 1.22, 1.21])
    put(project / "results", "v2-sample", [1.21, 1.19, 1.23])
    put(project / "results", "v2-sample-dot", [1.41, 1.39, 1.43])
    put(project / "results", "v3-sample", [1.0, 1.1])
    results.readme()
    text = (project / "README.md").read_text(encoding="utf-8")
    head, _, *rows = table(text, "lineage-sample")
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["version"] for row in rows] == ["`v0`", "`v1`", "`v2`", "`v3`"]
    delta = "Δ to the one before [95 %]"
    assert rows[0] == {
        "version": "`v0`",
        "the one idea": "the idea of v0",
        "diff": "",
        "parameters": "1,234,567",
        "tokens": "4.56 M",
        "bits per byte (seeds)": "1.310 ± 0.010 (3)",
        "above the floor": "1.060",
        delta: "",
        "tokens/s": "7,654",
        "peak MB": "321",
        "training": "99 s",
    }
    fit = stats.ttest_rel([1.20, 1.22, 1.21], [1.30, 1.31, 1.32]).confidence_interval()
    assert rows[1][delta] == f"-0.100 [{fit.low:+.3f}, {fit.high:+.3f}]"
    fit = stats.ttest_rel([1.21, 1.19, 1.23], [1.20, 1.22, 1.21]).confidence_interval()
    assert fit.low < 0 < fit.high and rows[2][delta] == "+0.000, n.s."
    assert rows[3][delta] == ""  # two seeds: no claim
    assert rows[1]["diff"] == "+2 −1"
    variants = table(text, "attention")
    assert variants[2] == ["full: queries, keys and values", "1.210 ± 0.020 (3)", ""]
    assert variants[3][1] == "1.410 ± 0.020 (3)" and variants[3][2].startswith("+0.200")
    assert "**`v0`**, 1.300 bits per byte, seed 1:\n\n> A story of v0." in text
    assert "Another one" not in text
    assert table(text, "glimpses")[2:] == [
        [f"`v{n}`", f"{bits:.3f}", f"A story of v{n}."]
        for n, bits in enumerate((1.3, 1.2, 1.21, 1.0))
    ]


def test_a_benchmark_is_shown_as_it_was_printed(project):
    (project / "results").mkdir()
    (project / "results" / "bench-memory.txt").write_text("a  b\n 1  2\n", encoding="utf-8")
    results.readme()
    text = (project / "README.md").read_text(encoding="utf-8")
    marker = MARKER.format("bench-memory")
    assert f"{marker}\n```\na  b\n 1  2\n```\n<!-- /bench-memory -->" in text
    assert text.count("```\nnot measured yet\n```") == len(results.BENCHMARKS) - 1


def test_a_first_look_shows_a_sample_once_and_not_at_length(project):
    put(project / "results", "v0-sample", [1.3], sample="Salt | salt. " * 40)
    put(project / "results", "v1-sample", [1.2], sample="A story.")
    put(project / "results", "v1_1-sample", [1.2], sample="A story.\n\nOne more.")
    first, second = results.glimpses("sample").splitlines()[2:]
    assert first.startswith("| `v0` | 1.300 | Salt \\| salt. Salt") and first.endswith(" … |")
    assert len(first) < 270 and second == "| `v1` | 1.200 | A story. |"


def test_a_control_has_a_row_behind_its_version(project):
    put(project / "results", "v1_1-sample", [1.20, 1.22, 1.21])
    put(project / "results", "v1_1-sample-control", [1.17, 1.20, 1.17])
    put(project / "results", "v2-sample", [1.10, 1.12, 1.11])
    results.readme()
    head, _, *rows = table((project / "README.md").read_text(encoding="utf-8"), "lineage-sample")
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["version"] for row in rows] == ["`v1_1`", "`v1_1`", "`v2`"]
    assert "control" in rows[1]["the one idea"] and rows[1]["diff"] == ""
    assert rows[1]["bits per byte (seeds)"] == "1.180 ± 0.017 (3)"
    delta = "Δ to the one before [95 %]"  # both to v1_1 as it is, not to each other
    assert rows[1][delta].startswith("-0.030") and rows[2][delta].startswith("-0.100")


def test_vocabularies_are_compared_by_bits_and_by_how_much_text_their_tokens_are(project):
    """A million tokens at 2 ln 2 nats are 2 million bits: at half a bit a byte, 4 MB of text."""
    for size, nats, bits in ((512, 2 * math.log(2), 0.5), (16384, 4 * math.log(2), 0.25)):
        name = f"v3-wikitext-2-vocab-{size}"
        more = {"val_loss": nats, "tokens_seen": 1_000_000}
        put(project / "results", name, [bits] * 3, **more)
    head, _, small, large = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in results.vocabulary_table().splitlines()
    ]
    small, large = (dict(zip(head, row, strict=True)) for row in (small, large))
    assert small["vocabulary"] == "512" and large["vocabulary"] == "16,384"
    assert small["text seen"] == "4.0 MB" and large["text seen"] == "16.0 MB"
    assert small["bits per byte (seeds)"] == "0.500 ± 0.000 (3)"


def test_the_longer_run_on_wikitext_has_a_row_behind_the_versions(project):
    more = {"data": {"name": "wikitext-2"}, "val_word_perplexity": 300.0}
    put(project / "results", "v4-wikitext-2", [1.60, 1.62, 1.61], **more)
    put(project / "results", "v4-wikitext-2-long", [1.53], **more)
    head, rows = results.lineage_rows("wikitext-2")
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["version"] for row in rows] == ["`v4`", "`v4`"]
    assert rows[1]["the one idea"] == "the same with 4 blocks and 3,600 steps"
    assert rows[1]["bits per byte (seeds)"].startswith("1.530") and rows[1]["diff"] == ""


def test_half_of_a_step_has_a_row_before_it(project):
    put(project / "results", "v0-sample", [1.30, 1.32, 1.31])
    put(project / "results", "v1-sample-control", [1.27, 1.30, 1.27])
    put(project / "results", "v1-sample", [1.20, 1.22, 1.21])
    head, rows = results.lineage_rows("sample")
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["the one idea"][:7] for row in rows] == ["the ide", "control", "the ide"]
    delta = "Δ to the one before [95 %]"  # both to v0
    assert rows[1][delta].startswith("-0.030") and rows[2][delta].startswith("-0.100")


def test_wikitext_shows_perplexity_per_word_and_what_types_were_used(project):
    put(project / "results", "v0-wikitext-2", [2.4, 2.5, 2.6], val_word_perplexity=987.65)
    bf16 = made_up("v3", 1, 1.0)["environment"] | {"dtype": "bfloat16"}
    args = {"val_word_perplexity": 123.45, "environment": bf16}
    put(project / "results", "v3-wikitext-2", [1.6, 1.7, 1.8], **args)
    text = results.lineage_table("wikitext-2")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| word perplexity, validation / test |" in rows[0] and "floor" not in rows[0]
    assert "| 987.6 |" in rows[2] or "| 987.7 |" in rows[2]
    assert "| 123.5 |" in rows[3] or "| 123.4 |" in rows[3]
    assert "torch 2.13.0, float32 and bfloat16; memory" in text


def test_the_table_of_longer_contexts(project):
    rows = [
        {"times": times, "context": times * 8, "side_by_side": 1.0 + times, "sliding": 0.5 + times}
        for times in (1, 2, 4)
    ]
    put(project / "results", "v4-sample", [1.0, 1.0], extrapolation=rows)
    results.readme()
    found = table((project / "README.md").read_text(encoding="utf-8"), "extrapolation")
    cells = ["2.000 / 1.500", "3.000 / 2.500", "5.000 / 4.500", "–"]
    assert found[2:] == [["ALiBi", *cells]]


def test_rewriting_changes_the_tables_alone_and_twice_is_once(project):
    old = (project / "README.md").read_text(encoding="utf-8")
    put(project / "results", "v0-sample", [1.30, 1.31, 1.32])
    results.readme()
    once = (project / "README.md").read_bytes()
    results.readme()
    assert (project / "README.md").read_bytes() == once
    text = once.decode("utf-8")
    for name in results.TABLES:
        for side in (text, old):
            assert side.count(MARKER.format(name)) == side.count(f"<!-- /{name} -->") == 1

    def prose(text):
        for name in results.TABLES:
            head, _, rest = text.partition(MARKER.format(name))
            text = head + rest.partition(f"<!-- /{name} -->")[2]
        return text

    assert prose(text) == prose(old) and text != old


def test_without_results_the_tables_say_so(project):
    results.readme()
    assert "No run is published yet." in (project / "README.md").read_text(encoding="utf-8")


def test_a_table_without_its_end_is_refused_and_nothing_is_written(project):
    path = project / "README.md"
    path.write_text(MARKER.format("dropout") + "\nnever closed\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(UserError, match="never closed"):
        results.readme()
    assert path.read_bytes() == before


# ---- publishing ----


def test_publish_makes_what_is_missing_and_only_that(project, monkeypatch, capsys):
    monkeypatch.setattr(results, "PUBLISHED", {
        "v0-sample": ([], (1, 2)),
        "v3-sample-dropout": (["--dropout", "0.1"], (1, 2)),
    })
    put(project / "results", "v0-sample", [9.0])
    results.publish()
    runs = project / "runs" / "published"
    assert calls(project) == [
        "v0 --out-dir runs/published/v0-sample-seed2 --seed 2",
        "v3 --out-dir runs/published/v3-sample-dropout-seed1 --dropout 0.1 --seed 1",
        "v3 --out-dir runs/published/v3-sample-dropout-seed2 --dropout 0.1 --seed 2",
    ]
    assert "1 of 4 runs are there; 3 to make" in capsys.readouterr().out
    assert results.load_results("v0-sample")[1]["val_bits_per_byte"] == 9.0  # was not made again
    for name in ("v0-sample-seed2", "v3-sample-dropout-seed1"):
        published = json.loads((project / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert [row["step"] for row in published.pop("curve")] == [0, 9]
        for key in FOUND:  # of versions alone
            assert published.pop(key, None) == (None if "dropout" in name else FOUND[key])
        assert len(published["environment"].pop("code_sha256")) == 64
        assert len(published.pop("checksum")) == 64
        assert published == json.loads((runs / name / "result.json").read_text(encoding="utf-8"))
    results.publish()
    assert calls(project) == []


def test_a_run_that_was_stopped_behind_the_training_is_not_trained_again(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1,))})
    (project / "stop_questions").touch()
    with pytest.raises(UserError, match="v0-sample, seed 1: results.probes stopped"):
        results.publish()
    assert not (project / "results").exists()
    calls(project)
    results.publish()
    assert calls(project, questions=True) == [
        "probes v0-sample-seed1", "diagnostics v0-sample-seed1", "claims v0-sample-seed1"
    ]
    assert results.load_results("v0-sample")[1]["probes"] == FOUND["probes"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_is_waited_for_when_publishing_is_stopped(project, name):
    """Ctrl-C reaches both processes, SIGTERM this one alone: either way the run saves first."""
    (project / "long").touch()
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from results import tables as results
from common.cli import run_main
results.ROOT = Path({str(project)!r})
results.PUBLISHED = {{"v0-sample": ([], (1,))}}
run_main(results.publish)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    while b"training" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    out, err = process.communicate()
    assert process.returncode == 128 + signal.Signals[name] and b"Traceback" not in err, err
    assert (project / "runs" / "published" / "v0-sample-seed1" / "saved").exists()


def test_publish_again_makes_what_is_there_but_not_of_this_checkout(project, monkeypatch, capsys):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1, 2))})
    put(project / "results", "v0-sample", [9.0, 9.0])
    results.publish()
    assert not calls(project)
    (project / "stop").touch()
    with pytest.raises(UserError, match="seed 1 stopped"):
        results.publish(again=True)
    calls(project)
    results.publish(again=True)
    assert [call.split()[3:] for call in calls(project)] == [["--resume"], ["--seed", "2"]]
    bits = results.bits_by_seed(results.load_results("v0-sample"))
    assert bits == {1: 1.5, 2: 1.5}
    capsys.readouterr()
    results.publish(again=True)
    assert not calls(project) and "2 of 2 runs are there" in capsys.readouterr().out


def test_publish_says_where_nothing_has_that_name(project):
    with pytest.raises(UserError, match="no published run has 'v4-smaple' in its name"):
        results.publish(only="v4-smaple")


def test_runs_of_earlier_code_are_named(project, monkeypatch, capsys):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1,)), "v1-sample": ([], (1,))})
    results.publish()
    script = project / "v0.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(f'"""Says something."""\n# as this does\n{text}', encoding="utf-8")
    results.publish()
    assert "earlier code" not in capsys.readouterr().out
    script.write_text(text + "x = 1\n", encoding="utf-8")
    results.publish()
    assert "earlier code of their scripts, all or in part: v0-sample\n" in capsys.readouterr().out


def test_a_published_file_gets_what_it_lacks_from_its_run(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1,))})
    results.publish()
    calls(project)
    path = project / "results" / "v0-sample-seed1.json"
    whole = path.read_bytes()
    less = json.loads(whole)
    del less["curve"], less["checksum"]
    path.write_text(json.dumps(less), encoding="utf-8")
    results.publish()
    assert path.read_bytes() == whole and not calls(project)
    path.write_text(json.dumps(less | {"val_bits_per_byte": 1.4}), encoding="utf-8")
    results.publish()  # another run's: its folder can't complete it
    assert "curve" not in results.load_results("v0-sample")[1] and not calls(project)


def test_what_a_long_run_reads_is_made_for_it_once(project, monkeypatch):
    args = ["--data", "more.txt"]
    monkeypatch.setattr(results, "PUBLISHED", {"v3-sample-long": (args, (1, 2))})
    text = """import json, sys
with open("made", "a") as made, open(sys.argv[-1], "w"), open("more.json", "w") as about:
    made.write("once ")
    json.dump({"command": " ".join(["python", *sys.argv]), "format": 2}, about)
"""
    (project / "data" / "world.py").write_text(text, encoding="utf-8")
    (project / "data" / "input.json").write_text('{"format": 2}', encoding="utf-8")
    results.publish()
    assert (project / "made").read_text(encoding="utf-8") == "once " and len(calls(project)) == 2
    assert results.load_results("v3-sample-long")[2]["probes"] == FOUND["probes"]
    # A text of the same name that another command wrote is another text, and so is another world's.
    about = json.loads((project / "more.json").read_text(encoding="utf-8"))
    for n, other in enumerate(({"command": "python data/world.py"}, {"format": 1}), start=2):
        (project / "more.json").write_text(json.dumps(about | other), encoding="utf-8")
        (project / "results" / "v3-sample-long-seed2.json").unlink()
        shutil.rmtree(project / "runs" / "published" / "v3-sample-long-seed2")
        results.publish()
        assert (project / "made").read_text(encoding="utf-8") == "once " * n


def test_publish_makes_again_what_was_made_with_other_arguments(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v3-sample-dropout": (["--dropout", "0.1"], (1,))})
    put(project / "results", "v3-sample-dropout", [9.0])  # with dropout 0
    results.publish()
    assert len(calls(project)) == 1
    assert results.load_results("v3-sample-dropout")[1]["val_bits_per_byte"] == 1.5


def test_publish_makes_again_what_read_another_sample(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v3-sample": ([], (1, 2))})
    about = json.loads((project / "data" / "input.json").read_text(encoding="utf-8"))
    about = json.dumps(about | {"sha256": "new"})
    (project / "data" / "input.json").write_text(about, encoding="utf-8")
    put(project / "results", "v3-sample", [9.0, 9.0], data={"name": "sample", "sha256": "new"})
    other = project / "results" / "v3-sample-seed1.json"
    other.write_text(other.read_text(encoding="utf-8").replace('"new"', '"old"'), encoding="utf-8")
    results.publish()
    assert [call.split()[0] + call[-2:] for call in calls(project)] == ["v3 1"]


def test_publish_some_names_and_some_seeds(project, monkeypatch):
    results.publish(only="v4-sample-r", seeds=(2, 3, 77))
    assert [call.split()[0] + call[-2:] for call in calls(project)] == ["v4 2", "v4 3"]
    assert sorted(path.name for path in (project / "results").iterdir()) == [
        "v4-sample-rope-seed2.json", "v4-sample-rope-seed3.json"
    ]


def test_how_long_is_expected_by_the_nearest_runs_there_are(project):
    put(project / "results", "v2-sample", [1.0] * 2, seconds=60)
    put(project / "results", "v2-sample-dot", [1.0] * 3, seconds=100)
    put(project / "results", "v2-wikitext-2", [1.0] * 5, seconds=300)
    put(project / "results", "v3-sample", [1.0], seconds=math.nan)  # says nothing
    (project / "results" / "v3-sample-seed2.json").write_text("{", encoding="utf-8")
    near = {
        "v2-sample": 60,  # its own, whatever its variants took
        "v2-sample-dot": 100,
        "v2-sample-mean": 100,  # the median of two 60 and three 100
        "v2-other": 200,  # of all of v2's: with five 300 as well
        "v3-sample": 200,  # nothing usable of v3: of all
    }
    wanted = [seconds * results.JUDGED + results.STARTED for seconds in near.values()]
    assert results.expected([(name, 9, []) for name in near]) == pytest.approx(wanted)
    shutil.rmtree(project / "results")
    assert results.expected([("v2-sample", 1, [])]) == [None]


@pytest.mark.parametrize(
    ("times", "done", "elapsed", "wanted"),
    [
        ([60, 120, 180], 0, 0, "about 6 min, "),
        ([60, 120, 180], 1, 90, "about 8 min left"),  # one and a half times as slow
        ([60, 120, 180], 2, 90, "about 2 min left"),  # twice as fast: 90 s
        ([None, None, None], 0, 0, "known after the first"),
        ([None, None, None], 1, 300, "about 10 min left"),
        ([1, 1], 1, 1, "about 1 min left"),
    ],
)
def test_what_is_left_follows_what_it_took_so_far(times, done, elapsed, wanted):
    assert wanted in results.time_left(times, done, elapsed)


def test_publish_says_how_long_it_takes_before_it_starts(project, monkeypatch, capsys):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1, 2, 3))})
    environment = made_up("v0", 1, 1.0)["environment"]
    environment["code_sha256"] = results.code_sha256(project / "v0.py")
    more = {"seconds": 476, "environment": environment}
    put(project / "results", "v0-sample", [1.0], **more)  # 600 s in all, so 20 min for two
    results.publish()
    said = [line for line in capsys.readouterr().out.splitlines() if line[0] != "["]
    assert said == [
        "1 of 3 runs are there; 2 to make", "about 20 min, by those in results/",
        "about 1 min left",
    ]  # fmt: skip


def test_a_stopped_run_is_resumed(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1, 2))})
    (project / "stop").touch()
    with pytest.raises(UserError, match="v0-sample, seed 1 stopped"):
        results.publish()
    assert not (project / "results").exists()
    calls(project)
    results.publish()
    assert [call.split()[3:] for call in calls(project)] == [["--resume"], ["--seed", "2"]]
    assert sorted(results.load_results("v0-sample")) == [1, 2]


def test_a_stopped_run_with_other_settings_is_begun_anew(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v3-sample": (["--dropout", "0.1"], (1,))})
    (project / "stop").touch()
    with pytest.raises(UserError):
        results.publish()
    calls(project)
    monkeypatch.setattr(results, "PUBLISHED", {"v3-sample": (["--dropout", "0.2"], (1,))})
    results.publish()
    assert [call.split()[3:] for call in calls(project)] == [["--dropout", "0.2", "--seed", "1"]]


@pytest.mark.parametrize(
    "more, then", [("changed = 1\n", ["--seed", "1"]), ("# said\n", ["--resume"])]
)
def test_a_stopped_run_of_code_that_was_changed_is_begun_anew(project, monkeypatch, more, then):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1,))})
    (project / "stop").touch()
    with pytest.raises(UserError):
        results.publish()
    calls(project)
    (project / "v0.py").write_text(SCRIPT + more, encoding="utf-8")
    results.publish()
    assert [call.split()[3:] for call in calls(project)] == [then]


def test_a_stopped_run_whose_script_is_damaged_is_begun_anew(project, monkeypatch):
    monkeypatch.setattr(results, "PUBLISHED", {"v0-sample": ([], (1,))})
    (project / "stop").touch()
    with pytest.raises(UserError):
        results.publish()
    calls(project)
    script = project / "runs" / "published" / "v0-sample-seed1" / "script.py"
    for damaged in (b"\xff", b"def", b"a\0b"):
        script.write_bytes(damaged)
        assert not results._is_script(script.parent, project / "v0.py")
    results.publish()
    assert [call.split()[3:] for call in calls(project)] == [["--seed", "1"]]


# ---- damage ----

DAMAGED = {
    "empty": "",
    "cut short": json.dumps(made_up("v0", 1, 1.0))[:150],
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "not text": b"\xff\xfe\x00",
    "another file": json.dumps({"seed": 1}),
    "a number as text": json.dumps(made_up("v0", 1, "1.0")),
    "no environment": json.dumps(made_up("v0", 1, 1.0, environment=None)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line_and_status_2(project, monkeypatch, capsys, content):
    path = project / "results" / "v0-sample-seed1.json"
    for target in (path, project / "runs" / "v0" / "result.json"):
        target.parent.mkdir(parents=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    readme = (project / "README.md").read_bytes()
    monkeypatch.chdir(project)
    for args in (["readme"], ["publish"], ["publish", "--only", "v0"], []):
        monkeypatch.setattr(sys, "argv", ["results.py", *args])
        with pytest.raises(SystemExit) as stop:
            run_main(results.main)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.count("\n") == 1 and error.startswith("results.py: "), error
        assert ("seed1.json" if args else "result.json") in error
    assert (project / "README.md").read_bytes() == readme
    assert calls(project) == []


@pytest.mark.parametrize(("version", "seed"), [("v0", 2), ("v1", 1)])
def test_a_run_under_another_run_s_name_is_refused(project, version, seed):
    put(project / "results", "v0-sample", [1.0, 1.1, 1.2])
    wrong = json.dumps(made_up(version, seed, 1.0))
    (project / "results" / "v0-sample-seed1.json").write_text(wrong, encoding="utf-8")
    for command in (results.readme, results.publish):
        with pytest.raises(UserError, match=f"holds a run of {version} with seed {seed}"):
            command()


# ---- the local runs ----


def test_the_table_of_the_local_runs(tmp_path):
    """As a person calls it: in a process of its own."""
    for name, bits in (("v0", 1.25), ("tries/v3", 1.0)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = json.dumps(made_up(Path(name).name, 1, bits, steps=1500))
        (tmp_path / "runs" / name / "result.json").write_text(text, encoding="utf-8")
    (tmp_path / "runs" / "unfinished").mkdir()
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__*__"))
    shutil.copy(ROOT / "bpe_tokenizer.py", tmp_path)
    command = [sys.executable, "-m", "results.tables"]
    settings = {"capture_output": True, "text": True, "encoding": "utf-8", "cwd": tmp_path}
    done = subprocess.run(command, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in
            done.stdout.splitlines()]
    head = ["run", "version", "data", "seed", "steps", "bits per byte", "parameters", "tokens/s"]
    assert rows[0] == [*head, "training"]
    numbers = ["1,234,567", "7,654", "99 s"]
    assert rows[2:] == [
        [str(Path("runs/tries/v3")), "v3", "sample", "1", "1500", "1.000", *numbers],
        [str(Path("runs/v0")), "v0", "sample", "1", "1500", "1.250", *numbers],
    ]
    shutil.rmtree(tmp_path / "runs")
    done = subprocess.run(command, **settings)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no finished run in runs" in done.stderr


def test_damaged_runs_are_named_and_the_others_shown(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        text = json.dumps(made_up("v2", 3, 1.25)) if name in "bd" else "{"
        (tmp_path / name / "result.json").write_text(text, encoding="utf-8")
    results.local(str(tmp_path))
    out, err = capsys.readouterr()
    assert [line.split("|")[2].strip() for line in out.splitlines()[2:]] == ["v2", "v2"]
    assert err.count("\n") == err.count("left out: ") == 2
    assert all(str(tmp_path / name / "result.json") in err for name in "ac")
    for name in "bd":
        shutil.rmtree(tmp_path / name)
    with pytest.raises(UserError, match="result.json is not a result file") as last:
        results.local(str(tmp_path))
    out, err = capsys.readouterr()  # one line each, the last of them with the status
    assert out == "" and err.count("\n") == 1
    assert str(tmp_path / "a") in err and str(tmp_path / "c") in str(last.value)


# ---- what a published run holds beside ----


def probes(asked, **shares):
    kinds = {kind: {"n": 8, "right": 1, "accuracy": share, "low": 0.0, "high": 1.0, "chance": 0.25}
             for kind, share in shares.items()}  # fmt: skip
    return {"version": "v", "seed": 1, "questions_sha256": asked, "seconds": 1.0, "kinds": kinds}


def diagnostics(distinct, punctuation=0.5, temperature=0.8):
    row = {"words": 640, "distinct_1": distinct, "distinct_2": 0.5, "repeated_trigrams": 0.25,
           "known_words": 1.0, "punctuation": punctuation}  # fmt: skip
    return {"version": "v", "prompts": 8, "seed": 1, "temperature": temperature, **row,
            "tokens_per_second": 1234.5,
            "source": {**row, "distinct_1": 0.9, "punctuation": 0.5}}  # fmt: skip


def put_each(project, name, key, contents):
    """A result file for each of some contents of a key; None for a file without it."""
    put(project / "results", name, [1.5] * len(contents))
    for seed, content in enumerate(contents, 1):
        path = project / "results" / f"{name}-seed{seed}.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        result |= {key: content} if content is not None else {}
        path.write_text(json.dumps(result), encoding="utf-8")


def test_answers_are_pooled_over_seeds_that_were_asked_the_same(project, capsys):
    assert results.probe_rows() is None and "Not measured yet" in results.TABLES["probes"]()
    put_each(project, "v0-sample", "probes", [probes("a", recall=0.5, copying=0.25)])
    put_each(project, "v1-sample", "probes", [probes("b", recall=1.0)])
    three = [probes("a", recall=share, copying=1.0) for share in (0.81, 0.83, 0.85)]
    put_each(project, "v2-sample", "probes", [*three, probes("b", recall=0.0), None])
    put_each(project, "v3-sample", "probes", [probes("a", recall=1.0)])
    assert results.probe_rows() == (
        ["question", "asked", "chance", "v0 (1)", "v2 (3)", "v3 (1)"],
        [["recall", "8", "25 %", "50 %", "83 % ± 2", "100 %"],
         ["copying", "8", "25 %", "25 %", "100 % ± 0", "–"]],
    )  # fmt: skip
    assert "probes: 2 runs were asked otherwise, left out" in capsys.readouterr().err
    assert "| recall | 8 | 25 % | 50 % | 83 % ± 2 |" in results.TABLES["probes"]()


def test_diagnostics_are_means_beside_the_text_itself(project):
    assert results.diagnostic_rows() is None
    put_each(project, "v0-sample", "diagnostics", [diagnostics(0.2), diagnostics(0.3, None), None])
    put_each(project, "v1-sample", "diagnostics", [diagnostics(0.7, temperature=0.0)])
    head, rows = results.diagnostic_rows()
    assert head[:3] == ["text", "words", "distinct-1"] and head[-1] == "tokens/s"
    assert rows == [
        ["the text itself", "640", "0.900", "0.500", "0.250", "1.000", "0.500", ""],
        ["v0 (2)", "640", "0.250", "0.500", "0.250", "1.000", "0.500", "1,234"],
    ]


def test_claims_are_shares_of_all_that_the_seeds_stories_say(project):
    assert results.claims_rows() is None
    few = {**FOUND["claims"], "found": {**FOUND["claims"]["found"], "names": [0, 4]}}
    other = {**FOUND["claims"], "temperature": 0.0}
    put_each(project, "v0-sample", "claims", [FOUND["claims"], few, None])
    put_each(project, "v1-sample", "claims", [other])
    put_each(project, "v4-sample-long", "claims", [few])
    head, rows = results.claims_rows()
    assert head[:3] == ["stories of", "true claims", "names"] and head[-1] == "unread"
    assert [row[:4] for row in rows] == [
        ["v0 (2)", "68 % ± 11 of 40", "38 % ± 53 of 8", "75 % ± 0 of 8"],
        ["v4, longer (1)", "60 % of 20", "0 % of 4", "75 % of 4"],
    ]


POINT = {"step": 0, "tokens": 0, "seconds": 0.0, "val_bits_per_byte": 2.5}


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("curve", []), ("curve", {}), ("curve", [3]), ("curve", [POINT, {"step": 1}]),
        ("curve", [{**POINT, "tokens": "1"}]), ("curve", [{**POINT, "seconds": math.inf}]),
        ("probes", 3), ("probes", {"kinds": {}}), ("probes", probes("a")),
        ("probes", probes(3, a=1)), ("probes", probes("a", copying=None)), ("diagnostics", []),
        ("diagnostics", {"source": 3}),
        ("diagnostics", diagnostics("0.5")), ("diagnostics", {**diagnostics(0.5), "source": {}}),
        ("diagnostics", {**diagnostics(0.5), "words": None}), ("claims", []),
        ("claims", {**FOUND["claims"], "stories": "20"}),
        ("claims", {**FOUND["claims"], "found": {}}),
        ("claims", {**FOUND["claims"], "found": {**FOUND["claims"]["found"], "names": [3, "4"]}}),
    ],
)  # fmt: skip
def test_a_damaged_part_of_a_result_is_named(project, key, content):
    put_each(project, "v0-sample", key, [content])
    with pytest.raises(UserError, match=f"v0-sample-seed1.json is not a whole .* its {key}$") as it:
        results.load_results("v0-sample")
    assert "\n" not in str(it.value)


def test_the_readmes_tables_are_those_of_the_published_results():
    """No number in them is typed by hand: `python -m results.tables readme` changes nothing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.rewritten(text) == text
    assert "No run is published yet." not in text


@pytest.mark.parametrize("name", results.PUBLISHED)
def test_every_published_run_is_there_and_whole(name):
    args, seeds = results.PUBLISHED[name]
    found = results.load_results(name)
    assert sorted(found) == sorted(seeds)
    for result in found.values():
        assert results._has_settings(result, args)
        assert {"curve", "tokenizer", "val_loss", *results._questions(name)} <= set(result)


def test_the_commands_in_the_readme_are_those_of_the_published_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.split() for line in text.splitlines()]
    for name, version in {"v0-wikitext-2": "v0", "v1-wikitext-2": "v1", "v2-wikitext-2": "v2",
                          "v3-wikitext-2": "v3", "v4-sample-long": "v4"}.items():  # fmt: skip
        args = results.PUBLISHED[name][0]
        if "wikitext" in name:  # how often it is judged changes no number
            args = [part for pair in zip(args[::2], args[1::2]) for part in pair
                    if pair[0] != "--eval-every"]  # fmt: skip
        wanted = dict(zip(args[::2], args[1::2]))
        found = [dict(zip(words[2::2], words[3::2])) for words in commands
                 if words[:2] == ["python", f"{version}.py"]]  # fmt: skip
        assert wanted in found, name
    assert ["python", *results.MAKE_MORE] in commands


def test_published_results_name_no_folder_of_the_machine_they_were_made_on():
    paths = sorted((ROOT / "results").glob("*-seed*.json"))
    references = set((ROOT / "results").glob("reference-*.json"))
    assert paths and {*paths, *references} == set((ROOT / "results").glob("*.json"))
    for path in paths:
        out_dir = results.read_result(path)["config"]["out_dir"]
        assert out_dir == f"runs/published/{path.stem}"
