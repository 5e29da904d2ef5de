"""Checkpoints: read so that no code in them can run, checked before they are believed."""

import contextlib
import hashlib
import os
import pickle
import zipfile

from common.errors import UserError
from common.files import atomic_write

import torch

LARGEST_NESTING = 100


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
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        kinds = {"version": str, "tokenizer": str, "step": int, "config": dict, "state": dict}
        found = checkpoint if isinstance(checkpoint, dict) else {}
        wrong = [name for name, kind in kinds.items() if type(found.get(name)) is not kind]
        if wrong:
            raise UserError(f"{path} is no checkpoint of this project: see its {', '.join(wrong)}")
        if checkpoint.pop("sha256", None) != digest(checkpoint):
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


def digest(value):
    """The hash of nested dictionaries and lists of tensors and plain values.

    An archive's checksums protect its parts, but not its directory: a flipped bit there can make
    torch read zeros for a tensor. Raises UserError where it is nested too deep.
    """
    hashed = hashlib.sha256()

    def add(part, depth):
        if depth > LARGEST_NESTING:
            raise UserError(f"its values are nested more than {LARGEST_NESTING} deep")
        if torch.is_tensor(part):
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
    """Put a saved state back. Raises UserError where it is the state of something else."""
    with fitting(folder):
        if isinstance(part, torch.optim.Optimizer):
            _check_optimizer_state(part, value)
        part.load_state_dict(value) if hasattr(part, "state_dict") else part.set_state(value)


def _check_optimizer_state(optimizer, value):
    """A fused AdamW believes the shapes of its state: another shape would end the process."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [len(group["params"]) for group in value["param_groups"]]
    if groups != [len(group["params"]) for group in optimizer.param_groups]:
        raise ValueError(f"its optimizer has groups of {groups} parameters")
    for i, state in value["state"].items():
        for name, tensor in state.items():
            shape = torch.Size() if name == "step" else parameters[i].shape
            if (
                not torch.is_tensor(tensor)
                or tensor.shape != shape
                or not tensor.is_floating_point()
            ):
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
