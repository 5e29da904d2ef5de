"""The published results: schemas, differences with their intervals, tables, and publishing.

The runs here are made up: result files written by hand, and scripts that write one in no time.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from results import intervals, plan, publish, readme, store, tables, variants
from results.plan import Planned, version
from results.scripts import code_lines, code_sha256

import msgspec
import pytest
import torch
from lineage import ROOT, python, refused
from safetensors.torch import load_file, save_file
from scipy import stats

SHA = "a" * 64


def made_up(version, seed, bits, **changes):
    """A run's result.json; changes of a part that is a dictionary are merged into it."""
    environment = dict(python="3.11.7", torch="2.13.0", device="cpu", processor="A CPU", threads=2)
    environment |= dict(dtype="float32", commit=None, script_sha256=SHA)
    whole = dict(version=version, idea=f"the idea of {version}", seed=seed, val_bits_per_byte=bits)
    whole |= dict(val_loss=1.0, val_perplexity=2.7, val_word_perplexity=None, val_accuracy=0.5)
    whole |= dict(val_accuracy_top5=0.75, train_loss=1.0, params=1_234_567, tokens_seen=4_560_000)
    whole |= dict(steps=1500, best_step=1500, seconds=98.7, tokens_per_second=7654.3)
    whole |= dict(peak_rss_mb=321.0, peak_gpu_mb=None, environment=environment)
    whole |= dict(data=dict(name="sample", sha256=SHA, train_bytes=100, val_bytes=10))
    whole |= dict(tokenizer=dict(kind="bpe", vocab_size=9, sha256=SHA, lossless=True))
    whole |= dict(config={"seed": seed, "dropout": 0.0})
    whole |= dict(sample=f"A story of {version}.\n\nAnother one.")
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(whole.get(key), dict) and key != "config"
        whole[key] = {**whole[key], **value} if merge else value
    return whole


def write(path, content):
    """A file that holds a text, or a value as JSON, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def put(folder, name, bits, **changes):
    """Result files of a name for seeds 1, 2, ... with these bits per byte."""
    for seed, value in enumerate(bits, 1):
        given = {"version": name.partition("-")[0], "seed": seed, "bits": value}
        write(folder / f"{name}-seed{seed}.json", made_up(**{**given, **changes}))


def scores(bits, words=None):
    shares = dict(accuracy=0.5, accuracy_top5=0.5)
    return dict(loss=1.0, bits_per_byte=bits, perplexity=2.0, word_perplexity=words, **shares)


def evaluation(side, sliding, test, words=None, windows=()):
    split = dict(tokens=9, side_by_side=scores(side), sliding=scores(sliding))
    splits = dict(validation=split, test={**split, "side_by_side": scores(test, words)})
    return dict(version="v", splits=splits, windows=list(windows))


# A version that trains nothing: it notes how it was called and leaves a result. A file named
# `stop` makes it break off once, after its checkpoint, as Ctrl-C does.
SCRIPT = r"""
import json, shutil, signal, sys, time
from pathlib import Path

here, version, args = Path(__file__).parent, Path(__file__).stem, sys.argv[1:]
with open(here / "calls.txt", "a") as file:
    print(version, *args, file=file)
out = Path(args[args.index("--out-dir") + 1])
out.mkdir(parents=True, exist_ok=True)
(out / "script.py").write_bytes(Path(__file__).read_bytes())
settings = out / "config.json"
if "--resume" in args:
    config = json.loads(settings.read_text())["config"]
else:
    values = [float(arg) if arg.replace(".", "").isdigit() else arg for arg in args[1::2]]
    config = {"dropout": 0.0, **{flag[2:]: value for flag, value in zip(args[::2], values)}}
    config["seed"] = int(config["seed"])
    settings.write_text(json.dumps({"version": version, "config": config}))
def save(*_):
    time.sleep(0.5)
    (out / "saved").touch()
    sys.exit(130)
if (here / "long").exists():  # saves when it is told to stop, but not at once
    signal.signal(signal.SIGINT, save)
    signal.signal(signal.SIGTERM, save)
    print("training", flush=True)
    time.sleep(600)
(out / "checkpoint.pt").touch()
if (here / "stop").exists():
    (here / "stop").unlink()
    sys.exit(130)
for name in ("model.safetensors", "tokenizer.json"):
    shutil.copy(here / name, out / name)
result = json.loads((here / "result.json").read_text())
result |= {"version": version, "seed": int(config["seed"]), "config": config}
scores = {key: result[key] for key in result if key.startswith(("val_", "train_"))}
rows = [{"step": step, "tokens": 1, "seconds": 1.0, **scores} for step in (0, result["steps"])]
(out / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
(out / "result.json").write_text(json.dumps(result))
"""
# In place of results/: measurements, which stop once where a file says so.
MEASURE = """
import json, sys
from pathlib import Path

here, command, folder, *_ = Path.cwd(), *sys.argv[1:]
with open(here / "calls.txt", "a") as file:
    print("measure", command, Path(folder).name, file=file)
if (here / "stop_measuring").exists():
    (here / "stop_measuring").unlink()
    sys.exit(1)
for key, content in json.loads((here / "found.json").read_text())[command].items():
    Path(folder, key + ".json").write_text(json.dumps(content))
"""
FOUND = {
    "evaluate": {"evaluation": evaluation(1.5, 1.4, 1.6)},
    "probe": {"probes": {"questions_sha256": "a", "kinds": {}, "more": 1}},
    "claims": {"claims": {"found": {}}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with scripts v0 to v3, a README and the sample's entropy, in place of this one."""
    monkeypatch.setattr(store, "ROOT", tmp_path)
    for number, name in enumerate(("v0", "v1", "v2", "v3")):
        text = f'"""{name}: the idea of {name}.\n\nMore."""\n' + SCRIPT + "# more\n" * number
        write(tmp_path / f"{name}.py", text)
    write(tmp_path / "results" / "__main__.py", MEASURE)
    write(tmp_path / "found.json", FOUND)
    write(tmp_path / "result.json", made_up("", 0, 1.5))
    write(tmp_path / "tokenizer.json", {})
    save_file({"w": torch.arange(3.0)}, tmp_path / "model.safetensors", {"version": "v0"})
    splits = {"validation": {"floor_bits_per_byte": 0.25}, "test": {"floor_bits_per_byte": 0.26}}
    write(tmp_path / "data" / "input.json", {"sha256": SHA, "format": 2, "splits": splits})
    return tmp_path


def planned(monkeypatch, *runs):
    monkeypatch.setattr(plan, "PLAN", runs)


def calls(project):
    """How the scripts and the measurements were called since the last time."""
    path = project / "calls.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def cells(text):
    """The rows of the first table in a text, {head: cell} each."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [dict(zip(head, row, strict=True)) for row in rows]


# ---- intervals ----


def test_intervals_by_hand():
    """Of 1, 2, 3: mean 2, deviation 1; t with two degrees of freedom is 4.303."""
    t, before = 4.3026527, {1: 5.0, 2: 6.0, 3: 7.0, 9: 0.0}
    after = {1: 6.0, 2: 8.0, 3: 10.0, 4: 0.0}
    half = t / math.sqrt(3)
    assert intervals.difference(before, after) == pytest.approx((2, 2 - half, 2 + half))
    assert intervals.difference(before, {2: 1.0, 3: 2.0, 4: 3.0}) is None  # two in common
    assert intervals.difference(before, {1: 6.0, 2: 7.0, 3: 8.0}) == (1, 1, 1)
    half = t * math.sqrt(1 + 1 / 3)
    assert intervals.prediction_interval([1, 2, 3]) == pytest.approx((2 - half, 2 + half))
    assert intervals.prediction_interval([1.0, 1.1]) is None


# ---- tables ----


def test_the_lineage_of_the_sample(project, monkeypatch):
    control = Planned("v1-sample-control", label="control: half of it", base="v0-sample")
    planned(monkeypatch, *version("v0"), control, *version("v1"), *version("v2"))
    put(project / "results", "v0-sample", [1.30, 1.31, 1.32])
    put(project / "results", "v1-sample-control", [1.29, 1.31, 1.33])
    put(project / "results", "v1-sample", [1.20, 1.22, 1.21])
    put(project / "results", "v2-sample", [1.0, 1.1], evaluation=evaluation(1.05, 0.95, 1.15))
    rows = cells(tables.lineage_table("sample"))
    assert [row["version"] for row in rows] == ["`v0`", "`v1`", "`v1`", "`v2`"]
    assert list(rows[0]) == (
        "version|the one idea|diff|parameters|tokens|bits per byte (seeds)|Δ [95 %]|test split"
        "|above the entropy, sliding|tokens/s|peak MB|seconds"
    ).split("|")
    assert list(rows[0].values()) == (
        "`v0`|the idea of v0||1,234,567|4.56 M|1.310 ± 0.010 (3)||–|–|7,654|321|99"
    ).split("|")
    assert rows[1]["the one idea"] == "control: half of it" and rows[1]["diff"] == ""
    assert re.fullmatch(r"\+0.000 \[.*\], n.s. to `v0`", rows[1]["Δ [95 %]"])
    fit = stats.ttest_rel([1.20, 1.22, 1.21], [1.30, 1.31, 1.32]).confidence_interval()
    assert rows[2]["Δ [95 %]"] == f"-0.100 [{fit.low:+.3f}, {fit.high:+.3f}] to `v0`"
    assert rows[2]["diff"] == "+2 −1"
    assert rows[3]["Δ [95 %]"] == ""  # two seeds: no claim
    assert rows[3]["test split"] == "1.150" and rows[3]["above the entropy, sliding"] == "0.700"
    note = tables.lineage_table("sample").splitlines()[-1]
    assert "of the 0.800 by which v2 lies above the entropy, 0.100 (13%) are that cut" in note


def test_a_version_needs_its_script_and_one_line_in_the_plan(project, monkeypatch):
    write(project / "v99.py", '"""v99: one more."""\n' + SCRIPT)
    planned(monkeypatch, *version("v3"), *version("v99", "--dropout 0.5"))
    publish.publish(only="v99")
    flags = [line.split()[3:] for line in calls(project) if line.startswith("v99")]
    assert flags[:3] == [["--seed", str(n)] for n in range(1, 4)]
    wikitext = ["--data", "wikitext-2", "--dropout", "0.5", "--seed"]
    assert flags[3:] == [[*wikitext, str(n)] for n in range(1, 4)]
    names = ("lineage", "lineage-sample", "wikitext", "glimpses", "samples")
    text = "".join(f"{readme.MARKER.format(name)}\n<!-- /{name} -->\n" for name in names)
    write(project / "README.md", text)
    readme.readme(pictures=False)
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.count("| `v99` |") == 4 and "**v99**" in text
    assert ("v99", "v99-sample") in variants.measured_runs()


def test_wikitext_has_word_perplexities_and_a_sentence_on_counting(project, monkeypatch):
    longer = Planned("v2-wikitext-2-long", label="longer", base="v2-wikitext-2")
    planned(monkeypatch, *version("v0"), *version("v1"), *version("v2"), longer)
    assert tables.counting_note() == ""
    heldout = {"heldout": {"split": "test", "tokens": 5, **scores(2.0, 90.04)}}
    later = {"evaluation": evaluation(2.0, 1.9, 2.1, 80.04)}
    for name, bits, more in (("v0", 2.4, {}), ("v1", 2.0, heldout), ("v2", 1.8, later)):
        more |= {"val_word_perplexity": 99.04, "data": {"name": "wikitext-2"}}
        put(project / "results", f"{name}-wikitext-2", [bits], **more)
    put(project / "results", longer.name, [1.5], data={"name": "wikitext-2"})
    row = dict(name="5-grams, counted", order=5, seconds=0.6, val_word_perplexity=321.04)
    reference = {key: made_up("", 0, 1.0)[key] for key in ("data", "tokenizer")}
    for counted, said in (
        (1.0, "Counted 5-grams (1.000) beat every run of the table."),
        (1.7, "beat every run up to v2 (1.800); only v2, longer (1.500) beats them."),
        (3.0, "Every run of the table beats counted 5-grams (3.000)."),
    ):
        reference["rows"] = [row | {"val_bits_per_byte": counted}]
        write(store.reference_path("wikitext-2"), reference)
        assert said in tables.counting_note()
    assert "AWD-LSTM 65.8" in tables.lineage_table("wikitext-2").splitlines()[-1]
    words = [row[tables.WORDS] for row in cells(tables.short_wikitext())]
    assert words == ["99.0 / –", "99.0 / 90.0", "99.0 / 80.0", "– / –", "321.0 / –"]
    write(store.reference_path("wikitext-2"), {**reference, "rows": [{**row, "order": "5"}]})
    with refused(r"reference-wikitext-2\.json is not a file of reference rows"):
        tables.counting_note()


def test_bits_per_byte_of_a_lossy_tokenizer_are_marked(project, monkeypatch, capsys):
    planned(monkeypatch, *version("v0"))
    put(project / "results", "v0-sample", [1.3], tokenizer={"lossless": False})
    assert "1.300 (1) (lossy)" in tables.lineage_table("sample")
    assert "1.300 (lossy)" in variants.glimpses()
    (project / "results" / "v0-sample-seed1.json").rename(project / "result.json")
    tables.local(str(project))
    assert "1.300 (lossy)" in capsys.readouterr().out


def test_longer_contexts_come_from_the_evaluation_or_from_the_run_itself(project, monkeypatch):
    rope = Planned("v3-sample-rope", label="RoPE", base="v3-sample", table="position")
    planned(monkeypatch, *version("v3"), rope)
    rows = [
        {"times": times, "context": times * 8, "side_by_side": 1.0 + times, "sliding": times}
        for times in (1, 2, 4)
    ]
    put(project / "results", "v3-sample", [1.0, 1.0], extrapolation=rows)
    put(project / "results", "v3-sample-rope", [1.0], evaluation=evaluation(1, 1, 1, None, rows))
    found = variants.context_table().splitlines()[2:]
    assert [row.split("|")[2:6] for row in found] == [
        [" 2.000 / 1.000 ", " 3.000 / 2.000 ", " 5.000 / 4.000 ", " – "]
    ] * 2


def test_rows_of_an_earlier_script_carry_a_mark(project):
    code = code_sha256(store.script_of("v0"))
    put(project / "results", "v0-sample", [1.3], environment={"code_sha256": code})
    assert "†" not in readme.table("lineage")
    put(project / "results", "v0-sample", [1.3], environment={"code_sha256": "0" * 64})
    assert "| `v0` † |" in readme.table("lineage") and "made by an earlier" in readme.table(
        "lineage"
    )


def test_the_vocabulary_table_shows_bits_and_how_much_text_was_read(project):
    """A million tokens at 2 ln 2 nats are 2 million bits: at half a bit a byte, 4 MB of text."""
    for name, size, nats, bits in (("", 4096, 2, 0.5), ("-vocab-512", 512, 4, 0.25)):
        more = {"val_loss": nats * math.log(2), "tokens_seen": 1_000_000}
        tokenizer = {"vocab_size": size}
        put(project / "results", f"v3-wikitext-2{name}", [bits], tokenizer=tokenizer, **more)
    small, large = cells(variants.vocabulary_table())
    assert (small["vocabulary"], large["vocabulary"]) == ("512", "4,096")
    assert (small["text seen"], large["text seen"]) == ("16.0 MB", "4.0 MB")


def test_what_was_measured_otherwise_is_left_out(project, capsys):
    class Found(msgspec.Struct):
        kind: str

    contents = {"v0-sample": "a", "v1-sample": "b", "v2-sample": "a", "v3-sample": 3}
    for name, content in contents.items():
        put(project / "results", name, [1.0], probes={"kind": content})
    runs = [(name, name) for name in contents]
    found = variants.measured("probes", Found, lambda one: one.kind, runs)
    assert found == {"v0-sample": [{"kind": "a"}], "v2-sample": [{"kind": "a"}]}
    assert "probes: 1 runs were measured otherwise" in capsys.readouterr().err


def test_rewriting_changes_the_tables_alone_and_twice_is_once(project):
    put(project / "results", "v0-sample", [1.30, 1.31, 1.32])
    write(project / "results" / "bench-memory.txt", "a  b\n 1  2\n")
    names = ("lineage", "bench-memory")
    marked = {n: f"{readme.MARKER.format(n)}\n{{}}<!-- /{n} -->" for n in names}
    prose = f"# Title – with a dash\n\n{marked['lineage']}\n\nBetween.\n{marked['bench-memory']}\n"
    path = project / "README.md"
    path.write_text(prose.format("old\n", ""), encoding="utf-8", newline="\n")
    for _ in range(2):
        readme.readme(pictures=False)
        text = path.read_bytes().decode("utf-8")
        wanted = (tables.short_lineage() + "\n", "```\na  b\n 1  2\n```\n")
        assert text == prose.format(*wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{0}\nnever closed\n", "never closed"), ("{1}\n<!-- /x -->\n", "no table is called x")],
)
def test_a_wrong_marker_is_refused_and_nothing_is_written(project, text, said):
    text = text.format(*(readme.MARKER.format(name) for name in ("lineage", "x")))
    write(project / "README.md", text)
    with refused(said):
        readme.readme(pictures=False)
    assert (project / "README.md").read_text(encoding="utf-8") == text


def test_the_tables_are_those_of_the_published_results():
    """No number in them is typed by hand: `python -m results readme` changes nothing."""
    for name in readme.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert readme.rewritten(text, name) == text


def test_every_benchmark_is_shown_with_a_sentence():
    text = (ROOT / "results" / "benchmarks.md").read_text(encoding="utf-8")
    for path in (ROOT / "results").glob("bench-*.txt"):
        before = text.partition(readme.MARKER.format(path.stem))[0]
        assert before != text and before.rstrip().rpartition("\n\n")[2][0].isalpha(), path


# ---- publishing ----


def test_publish_makes_what_is_missing_and_only_that(project, monkeypatch, capsys):
    dropout = Planned("v3-sample-dropout", "--dropout 0.1", seeds=(1, 2))
    planned(monkeypatch, Planned("v0-sample", seeds=(1, 2), measured=plan.ALL), dropout)
    publish.publish(only="v0", seeds=(1,))
    calls(project)
    publish.publish()
    assert calls(project) == [
        "v0 --out-dir runs/published/v0-sample-seed2 --seed 2",
        *(f"measure {name} v0-sample-seed2" for name in ("evaluate", "probe", "claims")),
        "v3 --out-dir runs/published/v3-sample-dropout-seed1 --dropout 0.1 --seed 1",
        "v3 --out-dir runs/published/v3-sample-dropout-seed2 --dropout 0.1 --seed 2",
    ]
    assert "1 of 4 runs are up to date; 3 to make" in capsys.readouterr().out
    for name in ("v0-sample-seed2", "v3-sample-dropout-seed1"):
        path = project / "results" / f"{name}.json"
        published = json.loads(path.read_text(encoding="utf-8"))
        assert [row["step"] for row in published.pop("curve")] == [0, 1500]
        for each in FOUND.values():
            for key, content in each.items():
                assert published.pop(key, None) == (None if "dropout" in name else content)
        assert published["environment"].pop("code_sha256") == code_sha256(store.script_of(name[:2]))
        assert len(published.pop("checksum")) == 64
        own = project / "runs" / "published" / name / "result.json"
        assert published == json.loads(own.read_text(encoding="utf-8"))
    publish.publish()
    assert calls(project) == []
    with refused("no planned run has 'v4-smaple' in its name"):
        publish.publish(only="v4-smaple")


def test_weights_of_the_first_seed_are_kept_and_again_makes_what_was_not_made_here(
    project, monkeypatch
):
    planned(monkeypatch, Planned("v0-sample", seeds=(1, 2)), Planned("v0-sample-x", seeds=(1,)))
    publish.publish()
    folder = project / "results" / "models"
    assert sorted(path.name for path in folder.iterdir()) == ["v0-tokenizer.json", "v0.safetensors"]
    (weights,) = load_file(folder / "v0.safetensors").values()
    assert weights.dtype == torch.float16 and weights.tolist() == [0, 1, 2]
    (folder / "v0.safetensors").unlink()
    calls(project)
    publish.publish()  # from the run's folder: it is not trained again
    assert (folder / "v0.safetensors").exists() and not calls(project)
    (project / "runs" / "published" / "v0-sample-seed1" / "result.json").unlink()
    publish.publish(again=True)  # what was not made here
    assert [call.split()[-1] for call in calls(project)] == ["--resume"]
    publish.publish(again=True)
    assert not calls(project)


def test_publish_says_truly_what_is_outdated(project, monkeypatch, capsys):
    wanted = {"name": "v3-sample", "flags": "--dropout 0.1", "seeds": (2,)}
    planned(monkeypatch, Planned(**wanted))
    publish.publish()
    put(project / "results", "v1-sample", [1.0])
    script, published = project / "v3.py", project / "results" / "v3-sample-seed2.json"
    for path, content, changes, reason in (
        (script, "import os\n# said\n" + SCRIPT, {}, "1 of 1 runs are up to date"),
        (script, SCRIPT + "x = 1\n", {}, "made by other code (1)"),
        (published, made_up("v3", 2, 1.0), {}, "made by other code (1)"),
        (project / "data" / "input.json", {"sha256": "b"}, {}, "made from another text (1)"),
        (script, SCRIPT, {"flags": "--dropout 1e-1"}, "1 of 1 runs are up to date"),
        (script, SCRIPT, {"flags": "--dropout 0.2"}, "made with other settings (1)"),
        (script, SCRIPT, {"flags": "", "measured": ("claims",)}, "without its claims (1)"),
    ):
        before = path.read_bytes()
        write(path, content)
        planned(monkeypatch, Planned(**wanted | changes))
        publish.publish(dry_run=True)
        out = capsys.readouterr().out
        assert reason in out and "but no longer planned: v1-sample-seed1.json" in out
        path.write_bytes(before)
    calls(project)
    publish.publish()  # what is missing is measured, not trained
    assert calls(project) == ["measure claims v3-sample-seed2"]


def test_how_long_it_takes_follows_the_nearest_runs_and_then_the_clock(
    project, monkeypatch, capsys
):
    put(project / "results", "v2-sample", [1.0] * 2, seconds=600)
    put(project / "results", "v2-sample-dot", [1.0] * 3, seconds=1000)
    write(project / "results" / "v3-sample-seed2.json", "{")
    for name, seconds in (("v2-sample", 600), ("v2-sample-mean", 1000), ("v1-sample", 1000)):
        planned(monkeypatch, Planned(name, seeds=(9,)))
        publish.publish(dry_run=True)
        minutes = round((publish.EVALUATED * seconds + publish.STARTED) / 60)
        assert f"about {minutes} min, by those in results/" in capsys.readouterr().out
    assert "about 8 min left" in publish._time_left([60, 120, 180], 1, 90)  # 1.5 times as slow


def test_a_run_that_stopped_while_it_was_measured_is_not_trained_again(project, monkeypatch):
    planned(monkeypatch, Planned("v0-sample", seeds=(1,), measured=("evaluation", "probes")))
    (project / "stop_measuring").touch()
    with refused("v0-sample, seed 1: evaluate stopped"):
        publish.publish()
    assert not list((project / "results").glob("*.json"))
    calls(project)
    publish.publish()
    assert calls(project) == ["measure evaluate v0-sample-seed1", "measure probe v0-sample-seed1"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_is_waited_for_when_publishing_is_stopped(project, name):
    """Ctrl-C reaches both processes, SIGTERM this one alone: either way the run saves first."""
    (project / "long").touch()
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from common.cli import run_main
from results import plan, publish, store
store.ROOT = Path({str(project)!r})
plan.PLAN = (plan.Planned("v0-sample", seeds=(1,)),)
run_main(publish.publish)
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=pipe, stderr=pipe, start_new_session=True
    )
    while b"training" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, err = process.communicate()
    assert process.returncode == 128 + signal.Signals[name] and b"Traceback" not in err, err
    assert (project / "runs" / "published" / "v0-sample-seed1" / "saved").exists()


OWN = "runs/published/v0-sample-seed1"
RESUMED, AGAIN = ["--resume"], ["--seed", "1"]


@pytest.mark.parametrize(
    ("file", "content", "then"),
    [
        ("notes", "", RESUMED),
        ("v0.py", "# said\n" + SCRIPT, RESUMED),
        ("v0.py", SCRIPT + "x = 1\n", AGAIN),
        (f"{OWN}/script.py", "a\0b", AGAIN),
        (f"{OWN}/config.json", [], AGAIN),
        (f"{OWN}/config.json", {}, AGAIN),
    ],
)
def test_a_stopped_run_is_resumed_unless_it_is_another_one_by_now(
    project, monkeypatch, file, content, then
):
    planned(monkeypatch, Planned("v0-sample", seeds=(1,)))
    (project / "stop").touch()
    with refused("v0-sample, seed 1 stopped"):
        publish.publish()
    calls(project)
    write(project / file, content)
    publish.publish()
    assert [call.split()[3:] for call in calls(project)] == [then]
    assert list(store.load_results("v0-sample")) == [1]


def test_the_longer_runs_text_is_made_once_by_the_plans_command(project, monkeypatch):
    planned(monkeypatch, Planned("v3-sample-long", "--data more.txt", seeds=(1, 2)))
    world = """import json, sys
with open("made", "a") as made, open(sys.argv[-1], "w"), open("more.json", "w") as about:
    made.write("once ")
    json.dump({"command": " ".join(["python", *sys.argv]), "format": 2}, about)
"""
    write(project / "data" / "world.py", world)
    publish.publish()
    assert (project / "made").read_text(encoding="utf-8") == "once " and len(calls(project)) == 2
    about = json.loads((project / "more.json").read_text(encoding="utf-8"))
    for changes in ({"command": "another"}, {"format": 1}):
        write(project / "more.json", about | changes)
        assert not publish._has_more_text()


def test_the_code_hash_leaves_out_comments_docstrings_and_imports(project):
    path, hashes = project / "script.py", []
    for text in (
        "x = 1\n\n\ndef f():\n    return x\n",
        '"""Says."""\nimport a\nfrom b import c\nx = 1  # one\ndef f():\n    "More."\n    return x',
        "x = 2\n\n\ndef f():\n    return x\n",
        "import v0\n",
    ):
        write(path, text)
        hashes.append(code_sha256(path))
    assert hashes[0] == hashes[1] != hashes[2]
    write(project / "v0.py", "x = 3\n")  # a version that an ablation imports counts
    assert code_sha256(path) != hashes[3]


def test_code_lines_leave_out_docstrings_comments_and_settings(tmp_path):
    path = tmp_path / "v.py"
    config = "@dataclass\nclass Config:\n    x: int = 1  # b\n\n\n"
    write(path, f'"""Says."""\n\n# a\n{config}y = 1  # c\n')
    assert code_lines(path) == ["y = 1  # c"]


# ---- damage ----


WRONG_KINDS = [{"val_bits_per_byte": "1.0"}, {"val_loss": None}, {"steps": -1}, {"params": 2**70}]
WRONG_KINDS += [{"config": {"a": [1]}}, {"curve": [{"step": 1}]}, {"extrapolation": [{"times": 1}]}]
WRONG_KINDS += [{"evaluation": {"version": "v0", "splits": {"test": {}}}}, {"curve": []}]
WRONG_KINDS += [{"environment": None}, {"tokens_seen": True}, {"heldout": 3}]


@pytest.mark.parametrize("changes", WRONG_KINDS, ids=str)
def test_a_part_of_the_wrong_kind_is_named(project, changes):
    put(project / "results", "v0-sample", [1.0], **changes)
    with refused(rf"v0-sample-seed1.json is not a result file: .*{[*changes][0]}"):
        store.load_results("v0-sample")


@pytest.mark.parametrize(("version", "seed"), [("v0", 2), ("v1", 1)])
def test_a_run_under_another_runs_name_is_refused(project, version, seed):
    write(project / "results" / "v0-sample-seed1.json", made_up(version, seed, 1))
    with refused(f"holds a run of {version} with seed {seed}"):
        store.load_results("v0-sample")


def test_every_published_file_is_whole_and_names_no_folder_of_its_machine():
    paths = sorted((ROOT / "results").glob("v*-seed*.json"))
    assert paths
    for path in paths:
        result = store.read_result(path)
        assert result.curve and result.config["out_dir"] == f"runs/published/{path.stem}"
    for corpus in store.CORPORA:
        assert [row.order for row in store.read_references(corpus)] == [2, 5]


def test_every_planned_run_has_its_script_and_a_name_of_its_own():
    names = [run.name for run in plan.PLAN]
    assert len(names) == len(set(names))
    assert {run.version for run in plan.PLAN} == set(store.versions())
    for run in plan.PLAN:
        assert (ROOT / run.script_path()).exists()
        assert not run.base or run.base in names


# ---- commands ----


results = partial(python, "-m", "results", PYTHONPATH=str(ROOT))


def test_the_bare_command_is_the_table_of_the_local_runs(tmp_path):
    for name, bits in (("v0", 1.25), ("tries/v3", 1.0), ("damaged", None)):
        write(tmp_path / "runs" / name / "result.json", made_up(Path(name).name, 1, bits))
    done = results(cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "left out: " in done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[2:]]
    numbers = ["sample", "1", "1500", "1.000", "1,234,567", "7,654", "99 s"]
    assert rows[0][1:-1] == [str(Path("runs/tries/v3")), "v3", *numbers]
    assert rows[1][1:3] == [str(Path("runs/v0")), "v0"] and len(rows) == 2
    done = results("local", "--folder", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no finished run in" in done.stderr and done.stdout == ""


def test_help_lists_the_commands_without_importing_what_is_slow(tmp_path):
    for name in ("torch", "scipy", "matplotlib", "datasets"):
        write(tmp_path / f"{name}.py", "1 / 0\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    for args in (["--help"], ["local", "--help"], ["compare", "--help"], ["publish", "--help"]):
        done = results(*args, PYTHONPATH=path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    listed = results("--help").stdout
    commands = "compare check evaluate probe claims plot page publish readme references".split()
    assert all(name in listed for name in commands)


@pytest.mark.parametrize("args", [["publsh"], ["check"], ["runs/v2"], ["compare", "v2"]])
def test_a_wrong_command_line_ends_with_status_2(args):
    done = results(*args)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr


def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path):
    """torch here is a file in which Ctrl-C comes."""
    write(tmp_path / "torch.py", "raise KeyboardInterrupt\n")
    done = results("evaluate", "x", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
