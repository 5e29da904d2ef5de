"""Checkpoints: read so that no code in them can run, checked before they are believed."""

import contextlib
import hashlib
import math
import os
import pickle
import pickletools
import re
import zipfile

from common.config import Settings
from common.errors import UserError
from common.files import atomic_write

import msgspec
import torch

# What a pickle of dictionaries, lists and tensors names; all else may take memory or do harm.
NAMES = r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage"
LARGEST_NESTING = 100
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what Adam, AdamW and SparseAdam hold of each parameter


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
        if not os.path.isfile(path):
            raise UserError(f"{path} is not a regular file")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise UserError(f"{path} is compressed: checkpoints of this project are not")
            if sum(part.file_size for part in parts) > os.path.getsize(path):
                raise UserError(f"{path} claims to hold more than its own length")
            damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path} is damaged (the checksum of {damaged} is wrong)")
            for part in parts:
                if part.filename.endswith(".pkl"):
                    _refuse_other_names(archive.read(part))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        kinds = {"version": str, "tokenizer": str, "data": str, "step": int}
        kinds |= {"config": dict, "state": dict}
        found = checkpoint if isinstance(checkpoint, dict) else {}
        wrong = [name for name, kind in kinds.items() if type(found.get(name)) is not kind]
        if wrong:
            raise UserError(f"{path} is no checkpoint of this project: see its {', '.join(wrong)}")
        msgspec.convert(found["config"], Settings)
        if checkpoint.pop("sha256", None) != digest(checkpoint, os.path.getsize(path)):
            raise UserError(f"{path} is damaged (its own checksum is wrong)")
    except UserError:
        raise
    except pickle.UnpicklingError:  # torch's own message tells how to run the code all the same
        raise UserError(
            f"{path} holds more than tensors and plain values: it was not read, and no code in it"
            f" was run"
        ) from None
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a whole checkpoint (cut short, or another file)") from None
    except Exception as error:  # whatever the readers of archives raise where bytes have changed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint: {reason}") from None
    return checkpoint


def _refuse_other_names(pickled):
    """Raise UnpicklingError where a pickle names anything else than NAMES."""
    for opcode, name, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            if not re.fullmatch(NAMES, name or ""):
                raise pickle.UnpicklingError(name)


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
        elif isinstance(part, dict):
            add([*part.keys(), *part.values()], depth + 1)
        elif isinstance(part, (list, tuple)):
            hashed.update(str(len(part)).encode())
            for one in part:
                add(one, depth + 1)
        else:
            hashed.update(f"{part!r};".encode())

    add(value, 0)
    return hashed.hexdigest()


def get_state(part):
    """The state of a module, an optimizer or a random generator."""
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def set_state(part, value, folder):
    """Put a saved state back. Raises UserError where it is the state of something else.

    Of an optimizer's state its settings stay as they are.
    """
    with fitting(folder):
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
    except UserError:
        raise
    except Exception as error:  # whatever a value of another kind leads to
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"the checkpoint in {folder} doesn't fit this model: {reason}") from None


def is_finite(weights):
    """Whether every number in a state dictionary of tensors is finite."""
    return all(bool(value.isfinite().all()) for value in weights.values())
