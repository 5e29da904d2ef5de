"""The published results: schemas, differences with their intervals, tables, and publishing.

The runs here are made up: result files written by hand, and scripts that write one in no time.
"""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from results import intervals, plan, publish, readme, same, store, tables, variants
from results.plan import Planned, version
from results.scripts import code_sha256

import msgspec
import pytest
import torch
from lineage import ROOT, read, refused
from published import SHA, evaluation, made_up, put, write
from safetensors.torch import load_file, save_file
from scipy import stats

# A version that trains nothing: it notes how it was called and leaves a result. A file named
# `stop` makes it break off once, after its checkpoint, as Ctrl-C does; with one named `long` it
# takes long, and saves when it is told to stop, but not at once.
SCRIPT = r"""
import json, shutil, signal, sys, time
from pathlib import Path

here, version, args = Path(__file__).parent, Path(__file__).stem, sys.argv[1:]
with open(here / "calls.txt", "a") as file:
    print(version, *args, file=file)
out = Path(args[args.index("--out-dir") + 1])
out.mkdir(parents=True, exist_ok=True)
shutil.copy(__file__, out / "script.py")
settings = out / "config.json"
if "--resume" in args:
    config = json.loads(settings.read_text())["config"]
else:
    values = [float(arg) if arg.replace(".", "").isdigit() else arg for arg in args[1::2]]
    config = {"dropout": 0.0, **{flag[2:]: value for flag, value in zip(args[::2], values)}}
    config["seed"] = int(config["seed"])
    settings.write_text(json.dumps({"version": version, "config": config}))
if (here / "long").exists():
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    print("training", flush=True)
    signal.sigwait(signals)
    time.sleep(0.5)
    if not signal.sigpending() & signals:  # a second one stops a run at once
        (out / "saved").touch()
    sys.exit(130)
(out / "checkpoint.pt").touch()
if (here / "stop").exists():
    (here / "stop").unlink()
    sys.exit(130)
for name in ("model.safetensors", "tokenizer.json"):
    shutil.copy(here / name, out / name)
result = json.loads((here / "result.json").read_text())
result |= {"version": version, "seed": config["seed"], "config": config}
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
name = {"evaluate": "evaluation", "probe": "probes", "claims": "claims"}[command]
content = json.loads((here / "found.json").read_text())[name]
Path(folder, name + ".json").write_text(json.dumps(content))
"""
FOUND = {"evaluation": evaluation(1.5, 1.4, 1.6), "claims": {"found": {}}}
FOUND["probes"] = {"questions_sha256": "a", "kinds": {}, "more": 1}
OWN = "runs/published/v0-sample-seed1"


@pytest.fixture
def project(elsewhere):
    """A project with scripts v0 to v3 and the sample's entropy, and no results yet."""
    for number, name in enumerate(("v0", "v1", "v2", "v3")):
        text = f'"""{name}: the idea of {name}.\n\nMore."""\n' + SCRIPT + "# more\n" * number
        write(elsewhere / f"{name}.py", text)
    splits = {"validation": {"floor_bits_per_byte": 0.25}, "test": {"floor_bits_per_byte": 0.26}}
    for name, content in {
        "results/__main__.py": MEASURE,
        "found.json": FOUND,
        "result.json": made_up("", 0, 1.5),
        "tokenizer.json": {},
        "data/input.json": {"sha256": SHA, "format": 2, "splits": splits},
    }.items():
        write(elsewhere / name, content)
    save_file({"w": torch.arange(3.0)}, elsewhere / "model.safetensors", {"version": "v0"})
    return elsewhere


@pytest.fixture
def planned(monkeypatch):
    """A function that puts runs in the plan's place."""
    return lambda *runs: monkeypatch.setattr(plan, "PLAN", runs)


def calls(project):
    """How the scripts and the measurements were called since the last time."""
    path = project / "calls.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


# ---- Intervals and tables ----


def test_intervals_by_hand():
    """Of 1, 2, 3: mean 2, deviation 1; t with two degrees of freedom is 4.303."""
    t, before = 4.3026527, {1: 5.0, 2: 6.0, 3: 7.0, 9: 0.0}
    half = t / math.sqrt(3)
    found = intervals.difference(before, {1: 6.0, 2: 8.0, 3: 10.0, 4: 0.0})
    assert found == pytest.approx((2, 2 - half, 2 + half))
    assert intervals.difference(before, {2: 1.0, 3: 2.0, 4: 3.0}) is None  # two in common
    assert intervals.difference(before, {1: 6.0, 2: 7.0, 3: 8.0}) == (1, 1, 1)
    half = t * math.sqrt(1 + 1 / 3)
    assert intervals.prediction_interval([1, 2, 3]) == pytest.approx((2 - half, 2 + half))
    assert intervals.prediction_interval([1.0] * 3) == (1.0, 1.0)
    assert intervals.prediction_interval([1.0, 1.1]) is None


def test_the_lineages_table_claims_what_its_seeds_allow(project, planned):
    control = Planned("v1-sample-control", label="control: half of it", base="v0-sample")
    planned(*version("v0"), control, *version("v1"), *version("v2"))
    put(project, "v0-sample", [1.30, 1.31, 1.32])
    put(project, "v1-sample-control", [1.29, 1.31, 1.33])
    put(project, "v1-sample", [1.20, 1.22, 1.21])
    put(project, "v2-sample", [1.0, 1.1], evaluation=evaluation(1.05, 0.95, 1.15))
    other = {"tokenizer": {"lossless": False}, "environment": {"code_sha256": "0" * 64}}
    put(project, "v3-sample", [1.3], **other)
    text = tables.lineage_table("sample")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    v0, half, v1, v2, v3 = (dict(zip(head, row, strict=True)) for row in rows)
    assert (v0["bits per byte (seeds)"], v0["Δ [95 %]"]) == ("1.310 ± 0.010 (3)", "")
    assert re.fullmatch(r"\+0.000 \[.*\], n.s. to `v0`", half["Δ [95 %]"])
    fit = stats.ttest_rel([1.20, 1.22, 1.21], [1.30, 1.31, 1.32]).confidence_interval()
    assert v1["Δ [95 %]"] == f"-0.100 [{fit.low:+.3f}, {fit.high:+.3f}] to `v0`"
    assert (half["diff"], v1["diff"]) == ("", "+2 −1")
    assert v2["Δ [95 %]"] == v3["Δ [95 %]"] == ""  # too few seeds: no claim
    assert (v2["test split"], v2["above the entropy, sliding"]) == ("1.150", "0.700")
    assert (v3["version"], v3["bits per byte (seeds)"]) == ("`v3` †", "1.300 (1) (lossy)")


def test_a_version_needs_its_script_and_one_line_in_the_plan(project, planned):
    write(project / "v99.py", '"""v99: one more."""\n' + SCRIPT)
    planned(*version("v3"), *version("v99", "--dropout 0.5"))
    publish.publish(only="v99")
    flags = [line.split()[3:] for line in calls(project) if line.startswith("v99")]
    wikitext = ["--data", "wikitext-2", "--dropout", "0.5"]
    assert flags == [[*more, "--seed", str(n)] for more in ([], wikitext) for n in (1, 2, 3)]
    names = ("lineage", "lineage-sample", "wikitext", "glimpses", "samples")
    text = "".join(f"{readme.MARKER.format(name)}\n<!-- /{name} -->\n" for name in names)
    write(project / "README.md", text)
    readme.readme(pictures=False)
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.count("| `v99` |") == 4 and "**v99**" in text
    assert ("v99", "v99-sample") in variants.measured_runs()


COUNTED = [  # bits per byte of counted 5-grams, and what is said of them
    (1.0, "Counted 5-grams (1.000) beat every run of the table."),
    (1.7, "Better than counted 5-grams (1.700): v2, longer, one seed (1.500). The rest is worse."),
    (3.0, "Every run of the table beats counted 5-grams (3.000)."),
]


@pytest.mark.parametrize("counted, said", COUNTED)
def test_wikitext_says_which_runs_beat_counting(project, planned, counted, said):
    longer = Planned("v2-wikitext-2-long", label="longer", base="v2-wikitext-2")
    planned(*version("v0"), *version("v1"), *version("v2"), longer)
    made = {"v0-wikitext-2": 2.4, "v1-wikitext-2": 2.0, "v2-wikitext-2": 1.8, longer.name: 1.5}
    for name, bits in made.items():
        put(project, name, [bits], data={"name": "wikitext-2"})
    row = {"name": "5-grams, counted", "order": 5, "seconds": 0.6, "val_bits_per_byte": counted}
    row["val_word_perplexity"] = 321.04
    reference = {key: made_up("", 0, 1.0)[key] for key in ("data", "tokenizer")}
    write(store.reference_path("wikitext-2"), {**reference, "rows": [row]})
    assert said in tables.short_wikitext()
    write(store.reference_path("wikitext-2"), {**reference, "rows": [{**row, "order": "5"}]})
    with refused(r"reference-wikitext-2\.json is not a file of reference rows"):
        tables.counting_note()


@pytest.mark.parametrize(("threads", "seconds"), [(2, "12"), (1, "")])
def test_costs_of_a_row_made_elsewhere_are_left_out(project, threads, seconds):
    longer = Planned("v2-sample-long", label="longer", base="v2-sample")
    put(project, "v2-sample", [1.0])
    put(project, longer.name, [1.0], seconds=12, environment={"threads": threads})
    assert tables.costs(longer, store.load_results(longer.name))[2] == seconds


def test_what_was_measured_otherwise_is_left_out(project, capsys):
    class Found(msgspec.Struct):
        kind: str

    contents = {"v0-sample": "a", "v1-sample": "b", "v2-sample": "a", "v3-sample": 3}
    for name, content in contents.items():
        put(project, name, [1.0], probes={"kind": content})
    runs = [(name, name) for name in contents]
    found = variants.measured("probes", Found, lambda one: one.kind, runs)
    assert found == {"v0-sample": [Found("a")], "v2-sample": [Found("a")]}
    assert "probes: 1 runs were measured otherwise" in capsys.readouterr().err


def test_tables_are_written_between_their_markers_or_not_at_all(project):
    put(project, "v0-sample", [1.30, 1.31, 1.32])
    write(project / "results" / "bench-memory.txt", "a  b\n 1  2\n")
    names = ("lineage", "bench-memory")
    marked = {n: f"{readme.MARKER.format(n)}\n{{}}<!-- /{n} -->" for n in names}
    prose = f"# Title – with a dash\n\n{marked['lineage']}\n\nBetween.\n{marked['bench-memory']}\n"
    path = project / "README.md"
    path.write_text(prose.format("old\n", ""), encoding="utf-8", newline="\n")
    for _ in range(2):
        readme.readme(pictures=False)
        text = path.read_bytes().decode("utf-8")
        assert text == prose.format(tables.short_lineage() + "\n", "```\na  b\n 1  2\n```\n")
    for wrong, said in (("lineage", "never closed"), ("x", "no table is called x")):
        text = f"{readme.MARKER.format(wrong)}\n" + "<!-- /x -->\n" * (wrong == "x")
        write(path, text)
        with refused(said):
            readme.readme(pictures=False)
        assert path.read_text(encoding="utf-8") == text


def test_the_tables_are_those_of_the_published_results():
    """No number in them is typed by hand: `python -m results readme` changes nothing."""
    for name in readme.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert readme.rewritten(text, name) == text
    for path in (ROOT / "results").glob("bench-*.txt"):  # each is shown, with a sentence before it
        before = text.partition(readme.MARKER.format(path.stem))[0]
        assert before != text and before.rstrip().rpartition("\n\n")[2][0].isalpha(), path


# ---- Publishing ----


def test_publish_makes_what_is_missing_and_only_that(project, planned, capsys):
    dropout = Planned("v3-sample-dropout", "--dropout 0.1", seeds=(1, 2))
    planned(Planned("v0-sample", seeds=(1, 2), measured=plan.ALL), dropout)
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
        published = read(project / "results" / f"{name}.json")
        assert [row["step"] for row in published.pop("curve")] == [0, published["steps"]]
        measured = {key: published.pop(key) for key in FOUND if key in published}
        assert measured == ({} if "dropout" in name else FOUND)
        assert published["environment"].pop("code_sha256") == code_sha256(store.script_of(name[:2]))
        assert len(published.pop("checksum")) == 64
        own = read(project / f"runs/published/{name}/result.json")
        own["environment"].pop("code_sha256")
        assert published == own
    publish.publish()
    assert calls(project) == []


def test_weights_of_the_first_seed_are_kept_and_again_makes_what_was_not(project, planned):
    planned(Planned("v0-sample", seeds=(1, 2)), Planned("v0-sample-x", seeds=(1,)))
    publish.publish()
    folder = project / "results" / "models"
    assert sorted(path.name for path in folder.iterdir()) == ["v0-tokenizer.json", "v0.safetensors"]
    (weights,) = load_file(folder / "v0.safetensors").values()
    assert weights.dtype == torch.float16 and weights.tolist() == [0, 1, 2]
    (folder / "v0.safetensors").unlink()
    calls(project)
    publish.publish()  # from the run's folder: it is not trained again
    assert (folder / "v0.safetensors").exists() and not calls(project)
    (project / OWN / "result.json").unlink()
    publish.publish(again=True)  # what was not made here
    assert [call.split()[-1] for call in calls(project)] == ["--resume"]
    publish.publish(again=True)
    assert not calls(project)


def test_publish_says_truly_what_is_outdated(project, planned, capsys):
    wanted = {"name": "v3-sample", "flags": "--dropout 0.1", "seeds": (2,)}
    planned(Planned(**wanted))
    publish.publish()
    put(project, "v1-sample", [1.0])
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
        planned(Planned(**wanted | changes))
        publish.publish(dry_run=True)
        out = capsys.readouterr().out
        assert reason in out and "but no longer planned: v1-sample-seed1.json" in out
        path.write_bytes(before)
    calls(project)
    publish.publish()  # what is missing is measured, not trained
    assert calls(project) == ["measure claims v3-sample-seed2"]
    write(script, SCRIPT + "x = 1\n")
    publish.publish()  # other code: the finished run in its folder is no longer this one
    assert calls(project)[0].startswith("v3 --out-dir")


SETTINGS = "from dataclasses import *\n@dataclass\nclass Config:\n    steps: int = {}\nx = {}\n"


def test_code_that_trains_the_same_counts_as_the_older(project, planned, monkeypatch):
    """That of a version and of an ablation which imports it; not with other weights or defaults."""
    scripts, older = (Path("v3.py"), Path("results/ablations/v3_x.py")), project / "older"
    planned(*(Planned(f"v3-sample-{script.stem}", script=str(script)) for script in scripts))
    for script in (*scripts, *(older / script for script in scripts)):
        write(project / script, SETTINGS.format(1, 1) + "import v3\n" * (script.stem == "v3_x"))
    before = [code_sha256(project / script) for script in scripts]
    monkeypatch.setattr(same, "trained", lambda run, *more: (run.name, more[-1]) == (said, project))
    for steps, x, said in ((2, 1, "defaults"), (1, 2, "v3-sample-v3_x"), (1, 3, ""), (1, 4, "")):
        write(project / scripts[0], SETTINGS.format(steps, x))
        with refused(said) if said else contextlib.nullcontext():
            same.main(older)
        assert ([code_sha256(project / script) for script in scripts] == before) == (not said)
        if not said:  # the next change is compared with this one
            shutil.copy(project / scripts[0], older)


@pytest.mark.slow
def test_short_runs_that_train_the_same_have_the_same_weights_and_losses():
    runs = [Planned("v0-sample", flags) for flags in ("", "", "--learning-rate 0.02")]
    before, again, other = (same.trained(run, Path("v0.py"), False, ROOT) for run in runs)
    assert before == again and before[0].keys() == {"table.weight"}
    assert before[0] != other[0] and before[1] != other[1]


def test_how_long_it_takes_follows_the_nearest_runs_and_then_the_clock(project, planned, capsys):
    put(project, "v2-sample", [1.0] * 2, seconds=600)
    put(project, "v2-sample-dot", [1.0] * 3, seconds=1000)
    put(project, "v3-sample-dot", [1.0] * 9, seconds=120)
    write(project / "results" / "v3-sample-seed2.json", "{")
    for name, seconds in (("v2-sample", 600), ("v2-sample-mean", 1000), ("v1-sample", 120)):
        planned(Planned(name, seeds=(9,)))
        publish.publish(dry_run=True)
        minutes = round((publish.EVALUATED * seconds + publish.STARTED) / 60)
        assert f"about {minutes} min, by those in results/" in capsys.readouterr().out
    assert "about 8 min left" in publish._time_left([60, 120, 180], 1, 90)  # 1.5 times as slow


RESUMED, AGAIN = ["--resume"], ["--seed", "1"]


STOPPED = [  # what is written meanwhile, and how the script is called then
    ("stop_measuring", "", RESUMED),
    ("v0.py", "# said\n" + SCRIPT, RESUMED),
    ("v0.py", SCRIPT + "x = 1\n", AGAIN),
    (f"{OWN}/script.py", "a\0b", AGAIN),
    (f"{OWN}/config.json", [], AGAIN),
    (f"{OWN}/config.json", {}, AGAIN),
    (f"{OWN}/config.json", {"version": "v0", "config": {"seed": 2}}, AGAIN),
]


@pytest.mark.parametrize("file, content, then", STOPPED)
def test_a_stopped_run_is_resumed_unless_it_is_another(project, planned, file, content, then):
    """One that stopped while it was measured is not trained again."""
    planned(Planned("v0-sample", seeds=(1,), measured=("evaluation", "probes")))
    (project / "stop").touch()
    with refused("v0-sample, seed 1 stopped"):
        publish.publish()
    calls(project)
    write(project / file, content)
    expected = ["measure evaluate v0-sample-seed1", "measure probe v0-sample-seed1"]
    if file == "stop_measuring":
        with refused("v0-sample, seed 1: evaluate stopped"):
            publish.publish()
        assert not list((project / "results").glob("*.json"))
        expected = expected[:1] + expected
    publish.publish()
    first, *others = calls(project)
    assert (first.split()[3:], others) == (then, expected)
    assert list(store.load_results("v0-sample")) == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_is_waited_for_when_publishing_is_stopped(project, name):
    """Ctrl-C and a terminal's end reach both processes, SIGTERM one alone: the run saves first."""
    (project / "long").touch()
    program = f"""
from pathlib import Path
from common.cli import run_main
from results import plan, publish, store
store.ROOT = Path({str(project)!r})
plan.PLAN = (plan.Planned("v0-sample", seeds=(1,)),)
run_main(publish.publish)
"""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **options)
    while b"training" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    send = os.kill if name == "SIGTERM" else os.killpg
    send(process.pid, signal.Signals[name])
    _, err = process.communicate()
    assert process.returncode == 128 + signal.Signals[name] and b"Traceback" not in err, err
    assert (project / OWN / "saved").exists()


def test_the_longer_runs_text_is_made_once_by_the_plans_command(project, planned):
    planned(Planned("v3-sample-long", "--data more.txt", seeds=(1, 2)))
    world = """import json, sys
with open("made", "a") as made, open(sys.argv[-1], "w"), open("more.json", "w") as about:
    made.write("once ")
    json.dump({"command": " ".join(["python", *sys.argv]), "format": 2}, about)
"""
    write(project / "data" / "world.py", world)
    publish.publish()
    assert (project / "made").read_text(encoding="utf-8") == "once " and len(calls(project)) == 2
    about = read(project / "more.json")
    for changes in ({"command": "another"}, {"format": 1}):
        write(project / "more.json", about | changes)
        assert not publish._has_more_text()


# ---- Files ----


WRONG = [{"val_bits_per_byte": "1.0"}, {"val_loss": None}, {"steps": 1.5}, {"params": 2**70}]
WRONG += [{"config": {"a": [1]}}, {"curve": [{"step": 1}]}, {"extrapolation": [{"times": 1}]}]
WRONG += [{"evaluation": {"version": "v0", "splits": {"test": {}}}}, {"curve": []}]
WRONG += [{"environment": []}, {"tokens_seen": -1}, {"tokenizer": {"lossless": 1}}]
WRONG += [{"evaluation": 3}, {"seed": 2}, {"version": "v1"}]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_a_part_of_the_wrong_kind_is_named_and_so_is_another_runs_file(project, changes):
    (name,) = changes
    put(project, "v0-sample", [1.0], **changes)
    said = rf"v0-sample-seed1.json is not a result file: .*{name}"
    with refused(r"holds a run of v\d with seed \d" if name in ("seed", "version") else said):
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
        assert run.script_path().exists() and (not run.base or run.base in names)
