"""The checkpoints of a run: which one is good, what goes into it, and going on from it."""

import contextlib
import hashlib
import mmap
import os
import pickle
import statistics
import sys
from typing import Any

from common.cli import read_config
from common.config import Settings, refuse_other_run
from common.errors import UserError, reason_of
from common.files import atomic_write, open_regular
from common.training.folder import CHECKPOINTS, MEASURED
from common.training.processes import gather, rank, world_size

import msgspec
import torch

# ---- Files ---------------------------------------------------------------------------------------


class Content(msgspec.Struct):
    """What every checkpoint holds."""

    version: str
    tokenizer: str  # the hashes of the vocabulary and of the text
    data: str
    step: int
    config: Settings
    state: dict[str, Any]


def write_checkpoint(path, content, previous=None):
    """Write a dictionary of tensors and plain values, whole or not at all: torch's archive, and
    after it the SHA-256 of its bytes.

    previous: where the file that stood at `path` before is kept.
    """
    with atomic_write(path, "w+b", previous) as file:
        torch.save(content, file)
        file.seek(0)
        file.write(hashlib.file_digest(file, "sha256").digest())


def read_checkpoint(path):
    """A checkpoint's dictionary: tensors and plain values only, so that no code in it can run.

    Raises UserError where it is not what `write_checkpoint` wrote, byte for byte.
    """
    try:
        with open_regular(path) as file:
            if not _is_whole(file):
                raise UserError("is damaged (cut short or changed), or of an older version")
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        msgspec.convert(checkpoint, Content)
        return checkpoint
    except UserError as error:
        wrong = error
    except pickle.UnpicklingError:  # torch's own message tells how to run the code all the same
        wrong = "holds more than tensors and plain values: no code in it was run"
    except Exception as error:  # of the operating system, of torch, of msgspec
        wrong = f"can't be read as a checkpoint: {reason_of(error)}"
    raise UserError(f"{path} {wrong}")


def _is_whole(file):
    """Whether the last 32 bytes of a file are the SHA-256 of those before, a zip archive."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] != b"PK":
            return False  # not hashed: a sparse file may be longer than the disk
        return hashlib.sha256(memoryview(data)[:-32]).digest() == data[-32:]


# ---- States --------------------------------------------------------------------------------------


def get_state(part):
    """The state of a module, an optimizer or a random generator."""
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def set_state(part, value):
    """Put a saved state back."""
    part.load_state_dict(value) if hasattr(part, "state_dict") else part.set_state(value)


@contextlib.contextmanager
def fitting(path):
    """Say in one line that a checkpoint, though whole, holds something else than was expected."""
    try:
        yield
    except Exception as error:  # whatever a value of another kind leads to
        why = reason_of(error, line=-1)
        raise UserError(f"the checkpoint in {path} doesn't fit this model: {why}") from None


def is_finite(weights):
    """Whether every number in a state dictionary of tensors is finite."""
    return all(bool(value.isfinite().all()) for value in weights.values())


# ---- One run's -----------------------------------------------------------------------------------


def load(run, names):
    """The first whole one of these files of a run as a dictionary. Raises UserError where there is
    none, or where it was made with other settings than the run's."""
    problem = missing = None
    for name in names:
        path = run.folder / name
        if not os.path.lexists(path):
            missing = missing or f"{path} is missing"
            continue
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            problem = problem or error
            run.whole = run.whole and name != CHECKPOINTS[0]
            continue
        if (why := problem or missing) and rank() == 0:
            print(f"{why}; {path} is used instead", file=sys.stderr)
        # --resume and --sample-only take the saved settings. The checkpoint's copy of them decides:
        # config.json may have been edited, or be of another run.
        own = run.settings()
        if run.config.sample_only:  # the command line's seed is another matter
            own["seed"] = read_config(run.folder / "config.json")[1]["seed"]
        refuse_other_run(path, (checkpoint["version"], checkpoint["config"]), (run.version, own))
        return checkpoint
    raise problem or UserError(f"no checkpoint in {run.folder.path} yet: train again")


def save(run, step):
    """checkpoint.pt, whole or not at all; the one before is kept as checkpoint.previous.pt.

    Where the last evaluation was the best so far, its weights are kept as best.pt too. All
    processes call this; one of them writes.
    """
    log, device = run.log, run.device
    own = {"torch": torch.get_rng_state(), "loss_sum": float(log.loss_sum)}
    if device.type != "cpu":
        own[device.type] = torch.get_device_module(device).get_rng_state()
    generators = gather(own)  # a list: dropout draws differently in each process
    if not run.writes:
        return
    names = {"version": run.version, "tokenizer": run.tokenizer.sha256, "step": step}
    names |= {"data": run.corpus.sha256, "config": run.settings()}
    state = {name: get_state(part) for name, part in run.state.items()}
    content = {"run": log.state(), "generators": generators, "state": state}
    # The best weights first: killed in between, the run comes to this step again and writes both.
    if step == log.best_step:
        for name in MEASURED:  # that was of the weights before
            (run.folder / name).unlink(missing_ok=True)
        write_checkpoint(run.folder / "best.pt", {**names, "state": {"model": state["model"]}})
    # A damaged checkpoint.pt must not take the place of the good one before it.
    previous = run.folder / CHECKPOINTS[1] if run.whole else None
    write_checkpoint(run.folder / CHECKPOINTS[0], {**names, **content}, previous)
    run.whole = True


def restore(run, checkpoint):
    """Put a checkpoint's state back; return its step."""
    step, folder, log, device = checkpoint["step"], run.folder.path, run.log, run.device
    if step > run.config.steps:
        already = f"the run in {folder} is at step {step} already"
        raise UserError(f"{already}: give more --steps, or train again in another --out-dir")
    with fitting(folder):
        for name, part in run.state.items():
            set_state(part, checkpoint["state"].get(name))
        log.restore(checkpoint["run"])
        processes = checkpoint["generators"]
        log.loss_sum = statistics.fmean(one["loss_sum"] for one in processes)
        if len(processes) == world_size():
            own = processes[rank()]
            log.loss_sum = float(own["loss_sum"])
            torch.set_rng_state(own["torch"])
            if device.type in own:
                torch.get_device_module(device).set_rng_state(own[device.type])
        else:
            before = f"trained by {len(processes)} processes so far, now by {world_size()}"
            log.say(f"{before}: the batches stay the same, what dropout drops does not")
            # Not the seed of the start, which would drop again what the first steps dropped.
            torch.manual_seed(run.config.seed + 1000 * step + rank())
    log.say(f"resuming {folder} at step {step}")
    return step
