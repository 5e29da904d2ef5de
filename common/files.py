"""Writing files so that a crash, a kill or a full disk loses nothing that was saved before, and
reading JSON that may have been damaged meanwhile."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from common.errors import UserError

LARGEST_JSON = 1 << 24  # bytes; settings and results are a thousand times smaller


def read_json(path, what):
    """The object in a JSON file that should be `what`, in words, without its checksum.

    Raises UserError, which names the file, where it can't be read, is too large, is no JSON object,
    or is not what `write_json` wrote. Without a checksum it is believed: older files have none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_JSON + 1)
        if len(data) > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON} bytes")
        value = json.loads(data.decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {what}: {error}") from None
    if "checksum" in value and value.pop("checksum") != _checksum(value):
        raise UserError(f"{path} was changed after it was written: its checksum does not fit")
    return value


def write_json(path, value):
    """Write a dictionary as JSON that a person can read, and its checksum with it."""
    with atomic_write(path, "w") as file:
        json.dump({**value, "checksum": _checksum(value)}, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _checksum(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


@contextlib.contextmanager
def failures_told(path):
    """Turn an OSError of writing `path` into a UserError, one line: the disk is full, say."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError):  # torch.save hides the disk's error behind its own
            error = error.__context__
            if not isinstance(error, OSError):
                raise
        raise UserError(
            f"can't write {path}: {error.strerror or error}; what was saved before is still there"
        ) from None


@contextlib.contextmanager
def atomic_write(path, mode="wb", previous=None):
    """Open a file that appears under its name whole or not at all.

    The bytes go to PATH.tmp, are flushed to the disk and then moved into place. With `previous`,
    the file that stood there before is moved to that path first. Raises UserError, one line,
    where the disk is full or the folder can't be written; nothing half-written is left.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with failures_told(path):
            with open(temporary, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
