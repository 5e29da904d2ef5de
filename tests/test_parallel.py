"""One batch, taken whole, in pieces one after the other, or by two processes at once."""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from lineage import ROOT, VERSIONS, flags, load, run, story_file

from common.training.distributed import join_processes
from common.errors import UserError

PIECES = [version for version in VERSIONS if hasattr(load(version).Config, "grad_accum")]


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["model"]


# ---- micro-batches ----


@pytest.mark.parametrize("version", PIECES)
def test_gradients_of_pieces_add_up_to_those_of_the_whole_batch(version, cache, monkeypatch):
    """Steps of plain gradient descent, where a gradient k times too long would be seen: AdamW
    and clipping forgive it. In float64, so that rounding can't hide a difference."""

    def descent(parameters, lr, **unused):
        return torch.optim.SGD(parameters, lr=lr)

    module, text = load(version), story_file(cache)
    monkeypatch.setattr(module.torch.optim, "AdamW", descent)
    settings = {"data": text, "learning_rate": 1.0, "clip_norm": 1e9, "steps": 5, "eval_every": 5}
    torch.set_default_dtype(torch.float64)
    try:
        for pieces in (1, 2, 8):  # the generator draws the same 8 starts, however they are grouped
            out, batch = cache / str(pieces), {"grad_accum": pieces, "batch_size": 8 // pieces}
            run(module, monkeypatch, flags(module, out_dir=out, **settings, **batch))
    finally:
        torch.set_default_dtype(torch.float32)
    whole = weights(cache / "1")
    assert all(tensor.dtype == torch.float64 for tensor in whole.values())
    for pieces in ("2", "8"):
        for name, tensor in weights(cache / pieces).items():
            assert torch.allclose(tensor, whole[name], rtol=1e-9, atol=1e-12), (pieces, name)
        last = metrics(cache / pieces)[-1]
        assert last["train_loss"] == pytest.approx(metrics(cache / "1")[-1]["train_loss"])
        assert last["tokens"] == 5 * 8 * 16
    assert metrics(cache / "1")[-1]["val_loss"] < metrics(cache / "1")[0]["val_loss"] - 0.01


# ---- processes ----


torchrun = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name == "nt",
    reason="this build of torch has no gloo, or none that torchrun can start",
)


@torchrun
def test_two_processes_learn_what_one_does(cache, monkeypatch):
    module, text = load("v3"), story_file(cache)
    run(module, monkeypatch, flags(module, data=text, out_dir=cache / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "v3.py"), *flags(module, data=text, out_dir=cache / "two")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cache,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    one, two = metrics(cache / "one"), metrics(cache / "two")
    assert [row["step"] for row in two] == [0, 4, 8, 12]  # and each once: one process writes
    for a, b in zip(one, two, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-4)
        assert a["train_loss"] == (b["train_loss"] and pytest.approx(b["train_loss"], rel=1e-4))
    assert one[-1]["val_loss"] < one[0]["val_loss"] - 0.01  # there was something to get wrong
    for name, tensor in weights(cache / "two").items():
        assert torch.allclose(tensor, weights(cache / "one")[name], rtol=1e-3, atol=1e-5), name

    # The second process leaves nothing: neither lines of its own, nor another run's folder.
    assert done.stdout.count("v3 on story.txt") == 1
    assert done.stderr.count("step     12:") == 1
    files = {path.name for path in (cache / "one").iterdir()}
    assert {path.name for path in (cache / "two").iterdir()} == files
    assert {path.name for path in cache.iterdir()} == {"cache", "one", "two", "story.txt"}

    # Each draws its own dropout: with the same, a batch in two halves would be dropped alike.
    first, second = torch.load(cache / "two" / "checkpoint.pt", weights_only=True)["generators"]
    assert not torch.equal(first["torch"], second["torch"])

    # Either run goes on in one process, to the same end.
    for name in ("one", "two"):
        run(module, monkeypatch, ["--resume", "--out-dir", cache / name, "--steps", "16"])
    last = [metrics(cache / name)[-1] for name in ("one", "two")]
    assert last[0]["step"] == 16
    assert last[0]["val_loss"] == pytest.approx(last[1]["val_loss"], rel=1e-4)


@torchrun
def test_a_process_that_dies_is_started_again_and_nothing_is_lost(cache):
    """torchrun starts both anew; they go on from the checkpoint, to the same end bit for bit."""
    module, text = load("v3"), story_file(cache)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", str(ROOT / "v3.py")]
    settings = {"data": text, "steps": 600, "eval_every": 20, "max_new_tokens": 1}
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # see the README
    options = {"cwd": cache, "env": {**os.environ, "OMP_NUM_THREADS": "1", **own_store}}
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    whole = [*command, *flags(module, out_dir=cache / "whole", **settings)]
    assert subprocess.run(whole, **options).returncode == 0
    killed = [*command, *flags(module, out_dir=cache / "killed", **settings)]
    with subprocess.Popen(killed, **options) as job:
        lines = cache / "killed" / "metrics.jsonl"
        while not lines.exists() or lines.read_bytes().count(b"\n") < 3:
            assert job.poll() is None
            time.sleep(0.005)
        workers = psutil.Process(job.pid).children()
        workers[-1].kill()
        said = job.communicate()[1]
    assert job.returncode == 0, said
    step = int(re.search(r"resuming .* at step (\d+)", said)[1])
    assert 0 < step < 600
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(cache / name)]
            for name in ("whole", "killed")]
    assert rows[0] == rows[1] and [row["step"] for row in rows[1]] == list(range(0, 601, 20))
    first, second = (weights(cache / name) for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="--batch-size 4 .* 3 processes: give a multiple of 3"):
        join_processes(torch.device("cpu"), SimpleNamespace(batch_size=4))


def test_without_torchrun_there_is_nothing_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    cpu = torch.device("cpu")
    assert join_processes(cpu, SimpleNamespace(batch_size=1)) is cpu
    assert not torch.distributed.is_initialized()
