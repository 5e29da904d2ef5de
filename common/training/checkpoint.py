"""The checkpoints of a run: read so that no code in them can run, checked before they are believed;
which one is good, what goes into it, and going on from it."""

import contextlib
import dataclasses
import hashlib
import math
import os
import pickle
import pickletools
import re
import statistics
import sys
import zipfile
from typing import Any

from common.cli import read_config
from common.config import Settings, refuse_other_run
from common.errors import UserError, reason_of
from common.files import atomic_write, open_regular
from common.training.folder import CHECKPOINTS, MEASURED
from common.training.processes import gather, rank, world_size

import msgspec
import torch

# What a pickle of dictionaries, lists and tensors names; all else may take memory or do harm.
NAMES = r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage"
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what Adam, AdamW and SparseAdam hold of each parameter
LARGEST_NESTING = 100
REASONS = {  # what an exception means where a file is read as a checkpoint
    UserError: "{}",
    msgspec.ValidationError: "is no checkpoint of this project: {}",
    # torch's own message tells how to run the code all the same.
    pickle.UnpicklingError: "holds more than tensors and plain values: no code in it was run",
    zipfile.BadZipFile: "is damaged: it is not a whole checkpoint (cut short, or another file)",
    Exception: "can't be read as a checkpoint: {}",  # whatever the readers of archives raise
}


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
    """Write a dictionary of tensors and plain values, whole or not at all, with its hash.

    previous: where the file that stood at `path` before is kept.
    """
    with atomic_write(path, previous=previous) as file:
        torch.save({**content, "sha256": digest(content)}, file)


def read_checkpoint(path):
    """A checkpoint's dictionary: tensors and plain values only, so that no code in it can run.

    The file is a zip archive; its checksums and one of our own tell whether it is whole. It is read
    only if its parts are no longer than the file, so it takes no more memory than disk. Raises
    UserError.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            length, parts = os.path.getsize(path), archive.infolist()
            if sum(part.file_size for part in parts) > length:
                much = "claims to hold more than its own length"
                raise UserError(f"{much}: it is compressed or damaged")
            for part in parts:
                if part.filename.endswith(".pkl"):
                    _refuse_other_names(archive.read(part))
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        content = checkpoint if isinstance(checkpoint, dict) else {}
        sha256 = content.pop("sha256", None)
        msgspec.convert(content, Content)
        if sha256 != digest(content, length):
            raise UserError("is damaged: its checksum is wrong")
        return content
    except Exception as error:
        reason = next(text for kind, text in REASONS.items() if isinstance(error, kind))
        raise UserError(f"{path} {reason.format(reason_of(error))}") from None


def _refuse_other_names(pickled):
    """Raise UnpicklingError where a pickle names anything else than NAMES."""
    naming = ("GLOBAL", "INST", "STACK_GLOBAL")
    names = [name or "" for code, name, _ in pickletools.genops(pickled) if code.name in naming]
    if not all(re.fullmatch(NAMES, name) for name in names):
        raise pickle.UnpicklingError("it names something else")


def digest(value, largest_count=math.inf):
    """The hash of nested dictionaries and lists of tensors and plain values.

    An archive's checksums protect its parts, but not its directory: a flipped bit there can make
    torch read zeros for a tensor. Raises ValueError where it is nested too deep, holds more
    values than `largest_count` (ten times the same list of ten times the same list ...), or a
    tensor in it is larger than its memory.
    """
    hashed, count = hashlib.sha256(), 0

    def add(part, depth):
        nonlocal count
        count += 1
        if depth > LARGEST_NESTING or count > largest_count:
            raise ValueError("its values are nested too deep or are too many")
        if torch.is_tensor(part):
            if part.nbytes > part.untyped_storage().nbytes():
                raise ValueError("a tensor in it is larger than its memory")
            hashed.update(f"{part.dtype} {tuple(part.shape)}".encode())
            hashed.update(part.detach().cpu().flatten().view(torch.uint8).numpy())
        elif isinstance(part, (dict, list, tuple)):
            parts = [*part.keys(), *part.values()] if isinstance(part, dict) else part
            hashed.update(str(len(parts)).encode())
            for one in parts:
                add(one, depth + 1)
        else:
            hashed.update(f"{part!r};".encode())

    add(value, 0)
    return hashed.hexdigest()


# ---- States --------------------------------------------------------------------------------------


def get_state(part):
    """The state of a module, an optimizer or a random generator."""
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def set_state(part, value):
    """Put a saved state back. Of an optimizer's state its settings stay as they are."""
    if isinstance(part, torch.optim.Optimizer):
        _check_optimizer_state(part, value["state"])
        value = {**part.state_dict(), "state": value["state"]}
    part.load_state_dict(value) if hasattr(part, "state_dict") else part.set_state(value)


def _check_optimizer_state(optimizer, states):
    """A fused AdamW believes the shapes of its state: another shape would end the process."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, state in states.items():
        if isinstance(optimizer, (torch.optim.Adam, torch.optim.SparseAdam)) and {*state} != ADAM:
            raise ValueError(f"its optimizer holds {', '.join(state)} of parameter {i}")
        for name, tensor in state.items():
            if name == "step" and isinstance(tensor, int):  # SparseAdam counts so
                continue
            shape = torch.Size() if name == "step" else parameters[i].shape
            if tensor.shape != shape or not tensor.is_floating_point():
                raise ValueError(f"its optimizer's {name} of parameter {i} has another shape")


@contextlib.contextmanager
def fitting(folder):
    """Say in one line that a checkpoint, though whole, holds something else than was expected."""
    try:
        yield
    except Exception as error:  # whatever a value of another kind leads to
        why = reason_of(error, line=-1)
        raise UserError(f"the checkpoint in {folder} doesn't fit this model: {why}") from None


def is_finite(weights):
    """Whether every number in a state dictionary of tensors is finite."""
    return all(bool(value.isfinite().all()) for value in weights.values())


# ---- One run's -----------------------------------------------------------------------------------


def load(run, names):
    """The first whole one of these files of a run as a dictionary. Raises UserError where there is
    none, or where it was made with other settings than the run's."""
    problem = None
    for name in names:
        path = run.folder / name
        if not os.path.lexists(path):
            continue
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            problem = problem or error
            run.whole = run.whole and name != CHECKPOINTS[0]
            continue
        if problem and rank() == 0:
            print(f"{problem}; {path} is used instead", file=sys.stderr)
        # --resume and --sample-only take the saved settings. The checkpoint's copy of them decides:
        # config.json may have been edited, or be of another run.
        own = dataclasses.asdict(run.config)
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
    # A damaged checkpoint.pt must not take the place of the good one before it.
    previous = run.folder / CHECKPOINTS[1] if run.whole else None
    write_checkpoint(run.folder / CHECKPOINTS[0], {**names, **content}, previous)
    run.whole = True
    if step == log.best_step:
        for name in MEASURED:  # that was of the weights before
            (run.folder / name).unlink(missing_ok=True)
        write_checkpoint(run.folder / "best.pt", {**names, "state": {"model": state["model"]}})


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
    log.say(f"resuming {folder} at step {step}")
    return step
