"""`python -m results`: the local table, help, and every wrong use in one line."""

import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from common.cli import run_main
from data import world
from results.__main__ import main

import pytest
from lineage import ROOT, edit_json, python
from published import made_up, put, put_run, write

results = partial(python, "-m", "results", PYTHONPATH=str(ROOT))


def test_the_bare_command_is_the_table_of_the_local_runs(tmp_path):
    numbers = {"params": 1_234_567, "tokens_per_second": 7654.3, "seconds": 98.7, "steps": 1500}
    numbers["tokenizer"] = {"lossless": False}
    for name, bits in (("v0", 1.25), ("tries/v3", 1.0), ("damaged", None)):
        content = made_up(Path(name).name, 1, bits, **numbers)
        write(tmp_path / "runs" / name / "result.json", content)
    done = results(cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "left out: " in done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[2:]]
    shown = ["sample", "1", "1500", "1.000 (lossy)", "1,234,567", "7,654", "99 s"]
    assert rows[0][1:-1] == [str(Path("runs/tries/v3")), "v3", *shown]
    assert rows[1][1:3] == [str(Path("runs/v0")), "v0"] and len(rows) == 2


def test_help_lists_the_commands_without_importing_what_is_slow(tmp_path):
    for name in ("torch", "scipy", "matplotlib", "datasets"):
        write(tmp_path / f"{name}.py", "1 / 0\n")
    for args in (["--help"], ["local", "--help"], ["compare", "--help"], ["publish", "--help"]):
        done = results(*args, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert done.returncode == 0 and done.stderr == "", done.stderr
        if len(args) == 1:
            listed = "check evaluate probe claims plot page readme references".split()
            assert all(name in done.stdout for name in [*listed, "compare", "publish"])


@pytest.mark.slow
def test_a_backend_that_is_none_costs_no_picture():
    done = results("plot", "--help", MPLBACKEND="nonsense")
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path):
    """torch here is a file in which Ctrl-C comes."""
    write(tmp_path / "torch.py", "raise KeyboardInterrupt\n")
    done = results("evaluate", "x", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


WRONG = f"""
compare v2-sample v9-sample | no published run is called v9-sample; near to it are: v2-
compare v2 v2-wikitext-2    | are of different texts
compare v2 v2-sample-dot    | make it: python -m results publish --only v2-sample-dot
compare v2 runs/v3          | no finished run in runs/v3: make one
compare v2 mine/            | can't be read as Python
compare v2 half             | no finished run in half: if it was stopped, go on with python v3.py
check {"x" * 300}           | is too long for a file
check half                  | go on with python v3.py --resume --out-dir half
check damaged               | is not a run's settings
check v2                    | no finished run in v2: did you mean runs
evaluate                    | give the folder
evaluate x --times 1        | no run in x
evaluate half               | not finished; go on with it: python v3.py --resume --out-dir half
probe                       | give the folder of a run
probe of-sample --seed {world.SEED} | makes the stories that
probe run                   | give a run on --data sample
claims run                  | give a run on --data sample
local --folder nowhere      | no finished run in
plot curves                 | name folders or published runs
plot curves run --out x.pdf | ends in .png or .svg
plot curves run --out no/such/x.png | can't write
plot curves v3-sample       | no run in v3-sample, and no curve of a run of that name
plot curves nothing/v2-sample | no run in nothing/v2-sample, and no curve
plot curves wide-seed1 wiki | runs of different data don't compare
plot vocabulary             | results/ has no run for vocabulary.svg
plot attention run --prompt the --head 3 | has 2 layers of 2 heads
plot attention v0 --prompt the | v0 has no attention
plot induction run --length 33 | half the context
plot predictions run --prompt '{"the key " * 80}' | reads 1 to 64
plot embeddings run --neighbours xyzzy | 'xyzzy' is not among the
publish --only v4-smaple    | no planned run has 'v4-smaple' in its name
page --out page.pdf         | ends in .html
"""


@pytest.mark.slow
def test_every_wrong_use_is_one_line_and_leaves_nothing_behind(
    project, finished_v3, monkeypatch, capsys
):
    """In a project with a few results, and runs that are whole, made up, stopped and damaged."""
    put(project, "v2-sample", [1.30, 1.31, 1.32])
    put(project, "v2-wikitext-2", [1.30], data={"name": "wikitext-2"})
    (project / "results" / "models").mkdir()
    for name in ("v0-sample-seed1.json", "models/v0.safetensors", "models/v0-tokenizer.json"):
        shutil.copy(ROOT / "results" / name, project / "results" / name)
    for name in ("run", "of-sample"):
        shutil.copytree(finished_v3, project / name)
    put_run(project / "wide-seed1")
    put_run(project / "wiki", data="wikitext-2")
    edit_json(project / "of-sample" / "config.json", config={"data": "sample"})
    write(project / "mine" / "result.json", made_up("v2", 4, 1.7))
    write(project / "mine" / "script.py", "def")
    write(project / "half" / "config.json", {"version": "v3", "config": {"seed": 1}})
    write(project / "damaged" / "config.json", {"version": 3})
    write(project / "runs" / "v2" / "result.json", {})
    monkeypatch.chdir(project)
    before = sorted(project.rglob("*"))
    for line in WRONG.strip().splitlines():
        command, said = map(str.strip, line.split("|"))
        monkeypatch.setattr(sys, "argv", ["results", *shlex.split(command)])
        with pytest.raises(SystemExit) as stop:
            run_main(main)
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and said in err, (line, err)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("args", [["publsh"], ["check"], ["runs/v2"], ["compare", "v2"]])
def test_a_wrong_command_line_ends_with_status_2(args):
    done = results(*args)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
