"""What is promised of a GPU: the CPU's losses, flash attention, and a loop that never waits for it.

Skipped where there is none, or one too old for bfloat16 and flash attention.
"""

from common.training.machine import prepare

import pytest
import torch
from lineage import flags, load, model_of, read, run
from torch.nn.attention import SDPBackend, sdpa_kernel

NEW = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not NEW, reason="torch sees no CUDA GPU here that is new enough"),
]
DEVICE = torch.device("cuda")


def trained(version, folder, monkeypatch, *more, **changes):
    """A few steps on the sample: the rows of the run's metrics.jsonl."""
    module = load(version) if isinstance(version, str) else version
    settings = {"data": "sample", "out_dir": folder, "context_length": 64, "device": "cuda"}
    run(module, monkeypatch, [*flags(module, **settings | changes), *more])
    return read(folder / "metrics.jsonl")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("version", ["v0", "v3", "v4", "v5", "v6"])
def test_losses_equal_those_of_the_cpu(version, dtype, compiled, cache, monkeypatch, capfd):
    """The same start and the same batches: what differs is the order in which sums are taken.

    In float32 that is some 1e-6 of a loss near 5, and twelve steps make more of it; bfloat16 has
    8 bits, 4e-3 of each activation.
    """
    there = trained(version, cache / "cpu", monkeypatch, device="cpu")
    here = trained(version, cache / "gpu", monkeypatch, dtype=dtype, compile=compiled)
    assert "--compile is not possible" not in capfd.readouterr().err
    assert [row["step"] for row in here] == [0, 4, 8, 12]
    assert here[-1]["val_loss"] < here[0]["val_loss"]
    close = {"float32": 1e-3, "bfloat16": 2e-2}[dtype]
    for name in ("val_loss", "train_loss"):
        losses = [[row[name] for row in rows if row[name] is not None] for rows in (here, there)]
        assert losses[0] == pytest.approx(losses[1], abs=close), name
    result = read(cache / "gpu" / "result.json")
    assert result["environment"]["device"] == torch.cuda.get_device_name()
    assert result["peak_gpu_mb"] > 0


EACH = [("v0", {}), ("v3", {}), ("v4", {}), ("v4", {"position": "rope"}), ("v4", {"compile": True})]
EACH += [("v3", {"dropout": 0.1, "activation_checkpointing": True}), ("v5", {})]
EACH += [("v6", {"ngram_rows": 0})]  # the rows' gradients are sparse: to sum them torch has to wait


@pytest.fixture
def waiting():
    """A function after which waiting for the GPU raises, or again does not."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("version, changes", EACH, ids=str)
def test_no_step_waits_for_the_gpu(version, changes, cache, monkeypatch, waiting):
    """From each batch, which is copied from pinned memory, to an evaluation."""
    module = load(version)

    def switch(name, mode):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, **more: waiting(mode) or function(*args, **more)
        )

    switch("evaluate", "default")
    switch("get_batch", "error")
    rows = trained(module, cache / "run", monkeypatch, dtype="bfloat16", **changes)
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    waiting("error")
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        torch.ones(1, device=DEVICE).item()  # what would have been noticed


ATTENTION = [("v3", {}, "FLASH"), *((v, {"position": "rope"}, "FLASH") for v in ("v4", "v5"))]
ATTENTION += [("v4", {"position": "alibi"}, "EFFICIENT")]  # flash attention takes no bias


@pytest.mark.parametrize("version, changes, kernel", ATTENTION)
def test_attention_runs_in_a_fused_kernel(version, changes, kernel):
    """Forward and backward; the kernel is given no choice but this one."""
    sizes = {"n_embd": 64, "context_length": 64, "dtype": "bfloat16"}
    model, config = model_of(load(version), **sizes, **changes)
    prepare(model, config, DEVICE)
    idx = torch.zeros(2, config.context_length, dtype=torch.long, device=DEVICE)

    def step(backend):
        with sdpa_kernel(backend):
            loss = model(idx).logsumexp(-1).mean()
            loss.backward()
        return loss.item()

    fused = step(getattr(SDPBackend, f"{kernel}_ATTENTION"))
    assert fused == pytest.approx(step(SDPBackend.MATH), abs=0.01)
    if kernel == "EFFICIENT":
        with pytest.raises(RuntimeError, match="No available kernel"):
            step(SDPBackend.FLASH_ATTENTION)


def test_a_run_goes_on_from_its_checkpoint_and_samples_on_the_cpu(cache, monkeypatch, capsys):
    folder, settings = cache / "run", {"dtype": "bfloat16", "dropout": 0.1}
    trained("v4", folder, monkeypatch, steps=8, **settings)
    rows = trained("v4", folder, monkeypatch, "--resume", **settings)
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert [row["tokens"] for row in rows] == [step * 2 * 4 * 64 for step in (0, 4, 8, 12)]
    assert rows[3]["val_loss"] < rows[2]["val_loss"]
    capsys.readouterr()
    sample = ["--sample-only", "--device", "cpu", "--out-dir", folder, "--temperature", "0"]
    run(load("v4"), monkeypatch, sample)
    assert capsys.readouterr().out.startswith("The")
