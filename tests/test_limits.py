"""How runs end: numbers that explode, memory that is short, signals, readers that leave, pictures
that can't be drawn, and two processes that want the same."""

import errno
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from common.cli import run_main
from common.errors import UserError
from common.training.checkpoint import read_checkpoint
from common.training.machine import pick_device

import pytest
import torch
from lab import KILLED, Lab, at_step
from lineage import ROOT, VERSIONS, flags, load, python, read, refused, run, story_file

# ---- Numbers -------------------------------------------------------------------------------------


def explode(module, monkeypatch, what):
    """Let the loss, its gradient, the validation loss or the logits go wrong after six steps."""
    real, armed = module.F.cross_entropy, []

    def broken(logits, targets, **options):
        loss = real(logits, targets, **options)
        if loss.requires_grad and armed and what in ("nan", "inf"):
            return loss * float(what)
        if loss.requires_grad and armed and what == "gradient":
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    at_step(module, monkeypatch, 7, lambda: armed.append(1))
    monkeypatch.setattr(module.F, "cross_entropy", broken)
    if what.startswith("validation"):
        evaluate, seen = module.evaluate, []

        def evaluated(*args, **kwargs):
            seen.append(1)
            scores = evaluate(*args, **kwargs)
            return scores if len(seen) < 3 else {**scores, "loss": float(what.split()[1])}

        monkeypatch.setattr(module, "evaluate", evaluated)
    if what == "logits":  # finite weights, finite loss, and then nothing to draw a token from
        sample = module.sample_next_token
        monkeypatch.setattr(
            module, "sample_next_token", lambda logits, *rest: sample(logits * math.nan, *rest)
        )


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "the loss became nan after step 7 with learning rate"),
        ("inf", "the loss became inf after step 7 with learning rate"),
        ("validation inf", "the validation loss became inf after step 8"),
        ("validation nan", "the validation loss became nan after step 8"),
        ("gradient", "became nan"),
        ("logits", "not finite after step 0"),
    ],
)
def test_numbers_that_explode_are_one_line(version, cache, monkeypatch, what, message):
    """The line says the step; the checkpoints that are kept hold finite weights."""
    module, out = load(version), cache / "run"
    explode(module, monkeypatch, what)
    with refused(message) as caught:
        run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=out, steps=40))
    assert "lower --learning-rate" in str(caught.value)
    kept = [*out.glob("*.pt")]
    assert bool(kept) == (what != "logits")
    for path in kept:
        model = read_checkpoint(path)["state"]["model"]
        assert all(value.isfinite().all() for value in model.values())


def test_run_stopped_after_a_bad_gradient_keeps_the_last_good_weights(cache, monkeypatch):
    module = load("v2")
    explode(module, monkeypatch, "gradient")
    at_step(module, monkeypatch, 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(UserError, match="weights became nan or infinite after step 7"):
        run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    assert read_checkpoint(cache / "run" / "checkpoint.pt")["step"] == 4


# ---- Memory and devices --------------------------------------------------------------------------


def one_line(main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.endswith("\n"), said  # progress may stand before it
    return said.splitlines()[-1]


LEARNED = [("v2", []), ("v3", []), ("v4", ["--position", "learned"])]


@pytest.mark.parametrize(("version", "more"), LEARNED)
def test_sizes_beyond_all_memory_are_one_line(version, more, cache, monkeypatch, capsys):
    """Positions that take 562 terabytes: more than a process can address, so refused at once."""
    module = load(version)
    args = flags(module, data=story_file(cache), out_dir=cache / "run")
    args += [*more, "--n-embd", "65536", "--context-length", str(2**31)]
    monkeypatch.setattr(sys, "argv", [f"{version}.py", *args])
    said = one_line(module.main, capsys)
    assert said.startswith(f"{version}.py: out of memory: give a lower --batch-size"), said
    assert all(name in said for name in ("--context-length", "--vocab-size", "--n-embd"))


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_every_system_s_words_for_no_memory_are_known(error, capsys):
    def main():
        raise error

    assert "out of memory: give a lower --batch-size" in one_line(main, capsys)


def test_memory_that_the_text_took_is_not_blamed_on_the_batch(capsys):
    program, names = "def read():\n    raise MemoryError", {}
    exec(compile(program, ROOT / "common" / "data" / "corpus.py", "exec"), names)
    said = one_line(names["read"], capsys)
    assert "out of memory while the text was read" in said and "batch" not in said


def test_other_errors_keep_their_traceback():
    def main():
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault"):
        run_main(main)


@pytest.mark.parametrize("name", ["meta", "cpu:x", "abacus", "cuda:99", "vulkan", ""])
def test_devices_that_cannot_be_used_are_refused(name):
    with refused("--device .* can't be used here"):
        pick_device(name)


# ---- Signals and readers -------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="on Windows there is no nohup")
def test_ignored_signals_stay_ignored(cache, monkeypatch):
    module = load("v0")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        at_step(module, monkeypatch, 2, lambda: signal.raise_signal(signal.SIGHUP))
        run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process can't be stopped")
def test_stopped_time_is_not_training_time(cache, monkeypatch):
    module, clock = load("v0"), time.perf_counter
    late = []

    def stopped():
        late.append(1000)  # seconds
        signal.raise_signal(signal.SIGCONT)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(late))
    at_step(module, monkeypatch, 5, stopped)
    run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    assert late and 0 < read(cache / "run" / "result.json")["seconds"] < 1000


def test_run_in_a_thread_works(cache, monkeypatch):
    """Where signals can't be handled."""
    module, args = load("v0"), ["--data", story_file(cache), "--out-dir", cache / "run"]
    monkeypatch.setattr(sys, "argv", ["v0.py", *flags(module), *map(str, args)])
    thread = threading.Thread(target=run_main, args=(module.main,))
    thread.start()
    thread.join()
    assert read(cache / "run" / "result.json")["steps"] == 12


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="on Windows a pipe's end is another error")
def test_reader_that_leaves_costs_nothing_that_was_learned(tmp_path):
    """As `2>&1 | head -1` does: the run is saved after its step, and its status is not 0."""
    module, out, script = load("v3"), tmp_path / "run", ROOT / "v3.py"
    args = flags(module, data=story_file(tmp_path), out_dir=out, steps=10**6, eval_every=1)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, script, *args], **pipe) as process:
        for line in process.stdout:
            if line.startswith(b"step      2:"):
                break
        process.stdout.close()
    assert process.returncode == 128 + signal.SIGPIPE
    assert read_checkpoint(out / "checkpoint.pt")["step"] >= 2
    done = python(script, "--resume", "--out-dir", out, "--steps", "2")
    assert done.returncode == 2 and "is at step" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="on Windows Ctrl-C reaches the whole console")
@pytest.mark.parametrize("where", ["summary.draw_loss", "checkpoint.write_checkpoint"])
def test_second_ctrl_c_is_one_line(tmp_path, where):
    """While a picture is drawn or a checkpoint is saved."""
    module = load("v0")
    program = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
import v0, common.training.{where.split(".")[0]} as module
def interrupted(*args):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
module.{where.split(".")[1]} = interrupted
v0.run_main(v0.main)
"""
    args = flags(module, data=story_file(tmp_path), out_dir=tmp_path / "run")
    done = python("-c", program, *args)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.endswith("stopping after this step (again to stop at once)\nstopped\n")
    assert not [*tmp_path.rglob("*.tmp")]
    assert (tmp_path / "run" / "result.json").exists() == (where == "summary.draw_loss")


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process that is ended can say nothing")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_before_training_leaves_nothing(name, tmp_path):
    code = f"""
import time
from common.cli import run_main
from common.files import atomic_write
def main():
    with atomic_write({str(tmp_path / "file")!r}):
        print("here", flush=True)
        time.sleep(60)
run_main(main)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(getattr(signal, name))
        said = process.communicate()[1]
    assert (process.returncode, said) == (128 + getattr(signal, name), b"stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_picture_that_cannot_be_drawn_costs_a_warning(cache, monkeypatch, capsys):
    def broken(*args):
        raise ValueError("no such backend")

    module = load("v0")
    monkeypatch.setattr("common.training.summary.draw_loss", broken)
    run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    assert "loss.png could not be drawn: no such backend\n" in capsys.readouterr().err
    assert not [*(cache / "run").glob("*.tmp"), *(cache / "run").glob("loss.png")]
    assert read(cache / "run" / "result.json")["steps"] == 12


ODD = [(["-OO"], {}, "v2"), ([], {"MPLBACKEND": "module://nowhere"}, "v0")]
ODD += [([], {"LOCAL_WORLD_SIZE": "x"}, "v0")]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "environment", "version"), ODD)
def test_runs_whatever_python_and_the_environment_say(tmp_path, options, environment, version):
    out = tmp_path / "$^$"
    args = flags(load(version), data=story_file(tmp_path), out_dir=out, steps=2)
    done = python(*options, ROOT / f"{version}.py", *args, **environment)
    assert done.returncode == 0, done.stderr
    assert (out / "loss.png").exists() and read(out / "result.json")["idea"]


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["1", "200"])
def test_help_names_every_setting_however_narrow_the_terminal(columns):
    done = python(ROOT / "v4.py", "--help", COLUMNS=columns)
    assert done.returncode == 0, done.stderr
    names = {name.replace("_", "-") for name in load("v4").Config.__dataclass_fields__}
    assert names <= set(re.findall(r"--([a-z][a-z-]*[a-z])", done.stdout))


# ---- Folders -------------------------------------------------------------------------------------


def test_a_run_in_a_folder_of_another_disk_moves_the_older_one_inside(cache, monkeypatch, capsys):
    """Or in one that is a mount point: nothing can be moved next to it."""
    module, replace = load("v0"), os.replace
    out, text = cache / "run", story_file(cache)

    def across(source, target):
        if Path(source).parent != Path(target).parent and out not in Path(target).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    for seed in (1, 2, 3):
        run(module, monkeypatch, flags(module, data=text, out_dir=out, seed=seed, steps=1))
    found = [read(path / "result.json")["seed"] for path in (out / "older.1", out / "older.2", out)]
    assert found == [1, 2, 3] and not out.with_name("run.1").exists()
    assert f"the run that was in {out} is now in {out / 'older.2'}" in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_at_once_share_one_cache(tmp_path):
    """And give the same bit for bit, but for times, memory and the environment."""
    lab = Lab(tmp_path, "v2")
    pair = [lab.start(lab.args(name, steps=8)) for name in ("a", "b")]
    for process in pair:  # they make the same vocabulary and the same token files
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert lab.contents("a") == lab.contents("b")
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 2  # one for each split


@pytest.mark.slow
def test_second_run_in_the_same_folder_is_refused(tmp_path):
    first, second = Lab(tmp_path, "v2"), Lab(tmp_path / "second", "v2")
    process = first.start(first.args("run", steps=10**6))
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.is_alive(), first.said()
    for args in (second.args(tmp_path / "run"), ["--resume", "--out-dir", tmp_path / "run"]):
        assert second.run(args) == 2
        line = second.said().splitlines()[-1]
        assert "another run is writing to" in line and "Traceback" not in second.said()
    process.kill()
    process.join()
    assert process.exitcode == KILLED
    # The lock died with its holder.
    assert first.resume("run", at_operation="replace checkpoint.pt") == KILLED, first.said()
    assert f"resuming {tmp_path / 'run'}" in first.said()
