"""Numbers that explode, memory that does not suffice, devices that can't be used, and two processes
that want the same."""

import math
import os
import subprocess
import sys

import pytest
import torch
from lab import KILLED, Lab
from lineage import ROOT, VERSIONS, flags, load, run, small, story_file

from common.cli import run_main
from common.errors import UserError
from common.training.run import pick_device, read_checkpoint
from common.tokenizers import load_tokenizer_file

# ---- numbers -------------------------------------------------------------------------------------


def explode(module, monkeypatch, what, at=6):
    """Let the loss, the gradients or the validation loss go wrong in the step behind step `at`."""
    real, get_batch, count = module.F.cross_entropy, module.get_batch, []

    def counted(*args):
        count.append(1)
        return get_batch(*args)

    def broken(logits, targets, **options):
        loss = real(logits, targets, **options)
        if not loss.requires_grad:
            return loss
        if len(count) > at * getattr(small(module), "grad_accum", 1):
            if what in ("nan", "inf"):
                return loss * float(what)
            if what == "gradient":
                loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    monkeypatch.setattr(module, "get_batch", counted)
    monkeypatch.setattr(module.F, "cross_entropy", broken)
    if what.startswith("validation"):
        judge, seen = module.judge, []

        def judged(*args, **kwargs):
            seen.append(1)
            scores = judge(*args, **kwargs)
            return scores if len(seen) < 3 else {**scores, "loss": float(what.split()[1])}

        monkeypatch.setattr(module, "judge", judged)
    if what == "logits":  # finite weights, finite loss, and then nothing to draw a token from
        choose = module.choose
        monkeypatch.setattr(
            module, "choose", lambda logits, *rest: choose(logits * math.nan, *rest)
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("what", "step", "message"),
    [
        ("nan", 6, "the loss became nan after step 6"),
        ("inf", 6, "the loss became inf after step 6"),
        ("validation inf", 7, "the loss became inf after step 7"),
        ("validation nan", 7, "the loss became nan after step 7"),
        ("gradient", 7, "became nan"),
        ("logits", 0, "not finite after step 0"),
    ],
)
def test_numbers_that_explode(version, cache, monkeypatch, what, step, message):
    """One line that says step and learning rate; the checkpoints kept hold finite weights."""
    module = load(version)
    out = cache / "run"
    explode(module, monkeypatch, what)
    args = flags(module, data=story_file(cache), out_dir=out, steps=40)
    with pytest.raises(UserError, match=message) as caught:
        run(module, monkeypatch, args)
    config = small(module, steps=40)
    if step == 6 and hasattr(module, "learning_rate"):
        rate = module.learning_rate(6, config)
        assert rate < config.learning_rate
        assert f"with learning rate {rate:g}: " in str(caught.value)
    assert "with learning rate" in str(caught.value) and "\n" not in str(caught.value)
    kept = [path for path in out.glob("*.pt")]
    assert bool(kept) == (what != "logits")
    for path in kept:
        model = read_checkpoint(path)["state"]["model"]
        assert all(value.isfinite().all() for value in model.values())


def test_a_run_told_to_stop_after_a_bad_gradient_keeps_the_last_good_weights(cache, monkeypatch):
    import signal

    module = load("v2")
    explode(module, monkeypatch, "gradient", at=5)
    get_batch, count = module.get_batch, []

    def stopped(*args):
        count.append(1)
        if len(count) == 6 * small(module).grad_accum:  # the step whose gradient is bad
            signal.raise_signal(signal.SIGINT)
        return get_batch(*args)

    monkeypatch.setattr(module, "get_batch", stopped)
    with pytest.raises(UserError, match="weights became nan or infinite after step 6"):
        run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    assert read_checkpoint(cache / "run" / "checkpoint.pt")["step"] == 4


# ---- memory and devices --------------------------------------------------------------------------


def one_line(main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.endswith("\n"), said  # progress may stand before it
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("version", "more"), [("v2", []), ("v3", []), ("v4", ["--position", "learned"])]
)
def test_sizes_beyond_all_memory_are_one_line(version, more, cache, monkeypatch, capsys):
    """Positions that take 562 terabytes: more than a process can address, so refused at once."""
    module = load(version)
    args = flags(module, data=story_file(cache), out_dir=cache / "run")
    args += [*more, "--n-embd", "65536", "--context-length", str(2**31)]
    monkeypatch.setattr(sys, "argv", [f"{version}.py", *args])
    said = one_line(module.main, capsys)
    assert said.startswith(f"{version}.py: out of memory: give a lower --batch-size"), said
    assert all(name in said for name in ("--context-length", "--vocab-size", "--n-embd"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        MemoryError(),
    ],
)
def test_other_systems_ways_to_say_so(error, capsys):
    def main():
        raise error

    assert "out of memory: give a lower" in one_line(main, capsys)


def test_other_errors_keep_their_traceback():
    def main():
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault"):
        run_main(main)


@pytest.mark.parametrize("name", ["meta", "cpu:x", "abacus", "cuda:99", "vulkan", ""])
def test_devices_that_cannot_be_used(name):
    with pytest.raises(UserError, match="--device .* can't be used here") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


# ---- two at once ---------------------------------------------------------------------------------


def test_two_processes_with_one_cache_and_with_one_folder(tmp_path):
    lab = Lab(tmp_path, "v2")
    pair = [lab.start(lab.args(name, steps=8)) for name in ("a", "b")]
    for process in pair:  # they make the same vocabulary and the same token files
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert lab.contents("a") == lab.contents("b")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
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
    assert first.resume("run", at_step=10**6 + 1, at_operation=30) == KILLED, first.said()
    assert f"resuming {tmp_path / 'run'}" in first.said()


# ---- files and signals -------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_vocabulary(tmp_path):
    """It would be waited for, and /dev/zero read, without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match="is not a regular file"):
            load_tokenizer_file(path)


def test_a_resumed_run_of_another_version_is_told_by_its_version(cache, monkeypatch):
    module = load("v2")
    run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run", steps=0))
    with pytest.raises(UserError, match=r"holds a run of v2\.py, not of this script"):
        run(load("v3"), monkeypatch, ["--resume", "--out-dir", cache / "run"])


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process that is ended can say nothing")
def test_sigterm_before_training_leaves_nothing(tmp_path):
    code = (
        "import time\nfrom common.cli import run_main\nfrom common.files import atomic_write\n"
        "def main():\n"
        f"    with atomic_write({str(tmp_path / 'file')!r}):\n"
        "        print('here', flush=True)\n        time.sleep(60)\n"
        "run_main(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"here\n"
        process.terminate()
        said = process.communicate()[1]
    assert (process.returncode, said) == (143, b"stopped\n")
    assert list(tmp_path.iterdir()) == []
