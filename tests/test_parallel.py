"""One batch, taken whole, as micro-batches one after the other, or by two processes at once."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from lab import metrics_of, plain
from lineage import ROOT, VERSIONS, finished_run, flags, load, python, run, story_file

ACCUMULATING = [version for version in VERSIONS if hasattr(load(version).Config, "grad_accum")]
TORCHRUN = ["-m", "torch.distributed.run"]
# Process by process, whose torchruns may restart: the README says why.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": str(ROOT)}


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["model"]


# ---- Micro-batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ACCUMULATING)
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(version, cache, monkeypatch):
    """Steps of plain gradient descent, where a gradient k times too long would be seen: AdamW
    and clipping forgive it. In float64, so that rounding can't hide a difference. Where micro-
    batches begin, the whole batch is that of the version before."""

    def descent(parameters, lr, **unused):
        return torch.optim.SGD(parameters, lr=lr)

    text = story_file(cache)
    settings = {"data": text, "learning_rate": 0.2, "clip_norm": 1e9, "steps": 5, "eval_every": 5}
    before = VERSIONS[VERSIONS.index(version) - 1] if version == ACCUMULATING[0] else version
    whole_module, module = load(before), load(version)
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.optim, "AdamW", descent)
    try:
        for k in (1, 2, 8):  # the generator draws the same 8 starts, however they are grouped
            script = whole_module if k == 1 else module
            batch = {"grad_accum": k, "batch_size": 8 // k, "dtype": "float32"}
            run(script, monkeypatch, flags(script, out_dir=cache / str(k), **settings, **batch))
    finally:
        torch.set_default_dtype(torch.float32)
    whole, rows = weights(cache / "1"), metrics_of(cache / "1")
    assert all(tensor.dtype == torch.float64 for tensor in whole.values())
    for k in ("2", "8"):
        for name, tensor in weights(cache / k).items():
            assert torch.allclose(tensor, whole[name], rtol=1e-9, atol=1e-12), (k, name)
        last = metrics_of(cache / k)[-1]
        assert last["train_loss"] == pytest.approx(rows[-1]["train_loss"])
        assert last["tokens"] == 5 * 8 * 16
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


# ---- Processes -----------------------------------------------------------------------------------

without = not torch.distributed.is_available() or os.name == "nt"
torchrun = pytest.mark.skipif(without, reason="torch has no gloo, or none that torchrun can start")
COUNTING = """
import torch.distributed as dist
import {version} as script
from common.training.processes import rank
real, sizes = dist.all_reduce, []
def counted(tensor, *args):
    sizes.append(tensor.numel())
    return real(tensor, *args)
dist.all_reduce = counted
script.main()
if rank() == 0:
    print("all_reduce:", sizes.count(max(sizes)))
"""


def two_processes(program, args, cwd):
    """A finished torchrun job of two processes."""
    two = [*TORCHRUN, "--standalone", "--nproc-per-node=2"]
    done = python(*two, program, *args, cwd=cwd, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@torchrun
@pytest.mark.parametrize("version", ["v3", "v6"])  # v6's tables have sparse gradients
def test_two_processes_learn_what_one_does(version, cache, monkeypatch):
    module = load(version)
    settings = {"data": story_file(cache), "dtype": "float32", "ngram_max": 3}
    run(module, monkeypatch, flags(module, out_dir=cache / "one", **settings))
    program = cache / "counting.py"
    program.write_text(COUNTING.format(version=version), encoding="utf-8")
    done = two_processes(program, flags(module, out_dir=cache / "two", **settings), cwd=cache)
    program.unlink()
    one, two = metrics_of(cache / "one"), metrics_of(cache / "two")
    assert [row["step"] for row in two] == [0, 4, 8, 12]  # and each once: one process writes
    for a, b in zip(one, two, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-4)
        assert a["train_loss"] == (b["train_loss"] and pytest.approx(b["train_loss"], rel=1e-4))
    assert one[-1]["val_loss"] < one[0]["val_loss"] - 0.01  # there was something to get wrong
    for name, tensor in weights(cache / "two").items():
        assert torch.allclose(tensor, weights(cache / "one")[name], rtol=1e-3, atol=1e-5), name
    # The gradients of two micro-batches are exchanged once per step.
    assert "all_reduce: 12\n" in done.stdout

    # The second process leaves nothing: neither lines of its own, nor another run's folder.
    assert done.stdout.count(f"{version} on story.txt") == 1
    assert done.stderr.count("step     12:") == 1
    assert {*os.listdir(cache / "one")} == {*os.listdir(cache / "two")}
    assert {path.name for path in cache.iterdir()} == {"cache", "one", "two", "story.txt"}

    # Each process draws its own dropout: with the same, a batch in two halves would be dropped
    # alike. Where a run goes on in two processes, neither draws what has been drawn.
    def random_states(name):
        saved = torch.load(cache / name / "checkpoint.pt", weights_only=True)["generators"]
        return {each["torch"].numpy().tobytes() for each in saved}

    before, more = random_states("one"), ["--resume", "--steps", "16", "--out-dir"]
    two_processes(ROOT / f"{version}.py", [*more, cache / "one"], cwd=cache)
    assert len(random_states("two")) == 2 and len(before | random_states("one")) == 3

    # The other run goes on in one process, to the same end.
    run(module, monkeypatch, [*more, cache / "two"])
    one, two = (metrics_of(cache / name)[-1] for name in ("one", "two"))
    assert one["step"] == 16 and one["val_loss"] == pytest.approx(two["val_loss"], rel=1e-4)


@pytest.mark.slow
@torchrun
def test_one_sequence_per_step_is_nothing_to_share(cache):
    finished_run("v0", cache / "one")
    args = flags(load("v0"), data=cache / "story.txt", out_dir=cache / "two")
    done = two_processes(ROOT / "v0.py", args, cwd=cache)
    assert done.stdout.count("the processes have nothing to share\n") == 1
    first, second = (metrics_of(cache / name) for name in ("one", "two"))
    assert [row["val_loss"] for row in first] == [row["val_loss"] for row in second]


HOSTS = [sys.executable, *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
HOSTS += ["--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
HOSTS += ["--rdzv-conf=keep_alive_interval=1"]  # a host silent for three of these is lost
PATIENCE = 600  # seconds after which a test that hangs ends


class Host:
    """A torchrun and what it starts: they can be stopped or killed together, as the power or the
    network of a host does it."""

    def __init__(self, folder, port, args):
        line = [*HOSTS, f"--rdzv-endpoint=127.0.0.1:{port}", ROOT / "v3.py", *map(str, args)]
        self.log = open(folder / "log.txt", "a+", encoding="utf-8")
        streams = {"stdout": self.log, "stderr": self.log}
        self.job = subprocess.Popen(line, cwd=folder, env={**os.environ, **ENVIRONMENT}, **streams)

    def each(self, act):
        """Call act(process) with torchrun and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            job = psutil.Process(self.job.pid)
            for process in [job, *job.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)

    def lose(self):
        self.each(psutil.Process.kill)
        self.job.wait()
        self.log.close()


def listening(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


def train_on(folder, *hosts):
    """Wait until the run has made two more evaluations than it has now."""
    lines = folder / "metrics.jsonl"
    count = lines.read_bytes().count(b"\n") if lines.exists() else 0
    began = time.monotonic()
    while not lines.exists() or lines.read_bytes().count(b"\n") < count + 2:
        said = (folder.parent / "log.txt").read_text(encoding="utf-8")
        assert time.monotonic() < began + PATIENCE, said
        assert all(host.job.poll() is None for host in hosts), said
        time.sleep(0.005)


@pytest.mark.slow
@torchrun
def test_run_on_two_hosts_survives_the_loss_of_a_process_and_of_each_host(cache):
    """Every line of metrics and all weights are those of a run that nobody disturbed."""
    module, out = load("v3"), cache / "lost"
    settings = {"data": story_file(cache), "steps": 160, "eval_every": 10, "max_new_tokens": 1}
    two_processes(ROOT / "v3.py", flags(module, out_dir=cache / "whole", **settings), cwd=cache)
    with socket.create_server(("127.0.0.1", 0)) as free, contextlib.ExitStack() as stack:
        port = free.getsockname()[1]
        free.close()

        def start(*args):
            host = Host(cache, port, args)
            stack.callback(host.lose)
            return host

        new, resumed = flags(module, out_dir=out, **settings), ["--resume", "--out-dir", out]
        first = start(*new)
        while not listening(port):  # the first host is where they meet
            time.sleep(0.1)
        second = start(*new)
        train_on(out, first, second)  # a process of the second host dies: its torchrun sees to it
        psutil.Process(second.job.pid).children()[0].kill()

        train_on(out, first, second)  # the second host is silent; it comes back as another
        second.each(psutil.Process.suspend)
        second = start(*resumed)

        train_on(out, first, second)  # the first host is gone, and so is where they meet
        first.lose()
        second.lose()
        status = [host.job.wait(PATIENCE) for host in (start(*resumed), start(*resumed))]
        said = (cache / "log.txt").read_text(encoding="utf-8")
    assert status == [0, 0] and said.count("resuming") == 3, said
    rows = metrics_of(out)
    assert rows == metrics_of(cache / "whole")
    assert [row["step"] for row in rows] == list(range(0, 161, 10))
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.1
    assert plain(weights(cache / "whole")) == plain(weights(out))
    assert not out.with_name("lost.1").exists()  # no part of it began from the start
