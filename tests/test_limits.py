"""How runs end: numbers that explode, memory that is short, signals, readers that leave, pictures
that can't be drawn, and two processes that want the same."""

import errno
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

from common.cli import run_main
from common.training.checkpoint import read_checkpoint

import pytest
import torch
from lab import Lab, at_step, contents
from lineage import ROOT, VERSIONS, flags, load, python, read, refused, story_file

# ---- Numbers -------------------------------------------------------------------------------------


def explode(module, monkeypatch, what):
    """Let the loss, its gradient, the validation loss or the logits go wrong after six steps."""
    real, armed = module.F.cross_entropy, []
    evaluate, sample = module.evaluate, module.sample_next_token

    def broken(logits, targets, **options):
        loss = real(logits, targets, **options)
        if loss.requires_grad and armed and what == "gradient":
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss * float(what) if loss.requires_grad and armed and len(what) == 3 else loss

    def evaluated(*args, **kwargs):
        scores = evaluate(*args, **kwargs)
        return {**scores, "loss": math.inf} if armed and what == "validation" else scores

    def sampled(logits, *rest):  # finite weights, finite loss, and then nothing to draw from
        return sample(logits * math.nan if what == "logits" else logits, *rest)

    at_step(module, monkeypatch, 7, lambda: armed.append(1))
    monkeypatch.setattr(module.F, "cross_entropy", broken)
    monkeypatch.setattr(module, "evaluate", evaluated)
    monkeypatch.setattr(module, "sample_next_token", sampled)


EXPLODING = [  # what goes wrong, and what is said of it
    ("nan", "the loss became nan after step 7 with learning rate"),
    ("inf", "the loss became inf after step 7 with learning rate"),
    ("validation", "the validation loss became inf after step 8"),
    ("gradient", "became nan"),
    ("logits", "not finite after step 0"),
]


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
@pytest.mark.parametrize("what, message", EXPLODING)
def test_numbers_that_explode_are_one_line(version, train, cache, monkeypatch, what, message):
    """The line says the step; the checkpoints that are kept hold finite weights."""
    module = load(version)
    explode(module, monkeypatch, what)
    with refused(message) as caught:
        train(module, steps=40)
    assert "lower --learning-rate" in str(caught.value)
    kept = [*cache.glob("a run/*.pt")]
    assert bool(kept) == (what != "logits")
    for path in kept:
        model = read_checkpoint(path)["state"]["model"]
        assert all(value.isfinite().all() for value in model.values())


def test_run_stopped_after_a_bad_gradient_keeps_the_last_good_weights(train, cache, monkeypatch):
    module = load("v2")
    explode(module, monkeypatch, "gradient")
    at_step(module, monkeypatch, 7, lambda: signal.raise_signal(signal.SIGINT))
    with refused("weights became nan or infinite after step 7"):
        train(module)
    assert read_checkpoint(cache / "a run" / "checkpoint.pt")["step"] == 4


# ---- Memory and devices --------------------------------------------------------------------------


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_every_system_s_words_for_no_memory_are_known(error, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(Mock(side_effect=error))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert "give a lower --batch-size" in said and "or a shorter text" in said


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a fault"):
        run_main(Mock(side_effect=RuntimeError("a fault of the program")))


# ---- Signals and readers -------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="on Windows there is no nohup")
def test_ignored_signals_stay_ignored(train, monkeypatch):
    module = load("v0")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        at_step(module, monkeypatch, 2, lambda: signal.raise_signal(signal.SIGHUP))
        folder, *_ = train(module)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (folder / "result.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process can't be stopped")
def test_evaluations_and_stopped_time_are_not_training_time(train, monkeypatch):
    module, clock = load("v0"), []  # of seconds that have gone by
    get_batch, evaluate = module.get_batch, module.evaluate

    def drawn(*args):
        if clock.count(1) == 4:
            clock.append(1000)
            signal.raise_signal(signal.SIGCONT)
        clock.append(1)
        return get_batch(*args)

    def evaluated(*args, **options):
        clock.append(100)
        return evaluate(*args, **options)

    monkeypatch.setattr(time, "perf_counter", lambda: sum(clock))
    monkeypatch.setattr(module, "get_batch", drawn)
    monkeypatch.setattr(module, "evaluate", evaluated)
    folder, *_ = train(module)
    assert read(folder / "result.json")["seconds"] == 12  # a second for each step


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
import signal
import v0, common.training.{where.split(".")[0]} as module
def interrupted(*args):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
module.{where.split(".")[1]} = interrupted
v0.run_main(v0.main)
"""
    args = flags(module, data=story_file(tmp_path), out_dir=tmp_path / "run")
    done = python("-c", program, *args, cwd=ROOT)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.endswith("stopping after this step (again to stop at once)\nstopped\n")
    assert not [*tmp_path.rglob("*.tmp")]
    assert (tmp_path / "run" / "result.json").exists() == (where == "summary.draw_loss")


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process that is ended can say nothing")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_before_training_leaves_nothing(name, tmp_path):
    code = f"""
import signal
from common.cli import run_main
from common.files import atomic_write
def main():
    with atomic_write({str(tmp_path / "file")!r}):
        signal.raise_signal(signal.{name})
run_main(main)
"""
    done = python("-c", code, cwd=ROOT)
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), "stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_picture_that_cannot_be_drawn_costs_a_warning(train, monkeypatch):
    broken = Mock(side_effect=ValueError("no such backend"))
    monkeypatch.setattr("common.training.summary.draw_loss", broken)
    folder, _, err = train("v0")
    assert "loss.png could not be drawn: no such backend\n" in err
    assert not [*folder.glob("*.tmp"), *folder.glob("loss.png")]
    assert read(folder / "result.json")["steps"] == 12


@pytest.mark.slow
def test_a_run_needs_no_docstrings_of_python(tmp_path):
    """`python -OO` drops them."""
    args = flags(load("v2"), data=story_file(tmp_path), out_dir=tmp_path / "run", steps=2)
    done = python("-OO", ROOT / "v2.py", *args)
    assert done.returncode == 0, done.stderr


# ---- Folders -------------------------------------------------------------------------------------


def test_a_run_in_a_folder_of_another_disk_moves_the_older_one_inside(train, cache, monkeypatch):
    """Or in one that is a mount point: nothing can be moved next to it."""
    replace, out = os.replace, cache / "run"

    def across(source, target):
        if Path(source).parent != Path(target).parent and out not in Path(target).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    said = [train("v0", "run", seed=seed, steps=1)[2] for seed in (1, 2, 3)]
    found = [read(path / "result.json")["seed"] for path in (out / "older.1", out / "older.2", out)]
    assert found == [1, 2, 3] and not out.with_name("run.1").exists()
    assert f"the run that was in {out} is now in {out / 'older.2'}" in said[2]


@pytest.mark.slow
def test_two_runs_at_once_share_one_cache(tmp_path):
    """And give the same bit for bit, but for times, memory and the environment."""
    lab = Lab(tmp_path, "v2")
    pair = [lab.start(lab.args(name, steps=8)) for name in ("a", "b")]
    for process in pair:  # they make the same vocabulary and the same token files
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert contents(lab.folder / "a") == contents(lab.folder / "b")
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 2  # one for each split
