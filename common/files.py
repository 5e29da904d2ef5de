"""Reading JSON that may have been damaged, and writing files so that a crash, a kill or a full disk
loses nothing that was saved before."""

import contextlib
import hashlib
import json
import os
import secrets
import stat
from pathlib import Path

from common.errors import UserError, reason_of

import msgspec

LARGEST_JSON = 1 << 24  # bytes; settings and results are a thousand times smaller,
LARGEST_VOCABULARY = 1 << 27  # and vocabularies may be larger
NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)  # what damaged JSON leads to


def open_regular(path):
    """Open a file to read its bytes. Raises OSError for anything but a regular file: a FIFO, which
    would be waited for without end, a device, a folder.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")
    return open(path, "rb")


def read_bytes(path, largest=LARGEST_JSON):
    """The bytes of a file. Raises UserError where it can't be read, or is too large to be meant."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > largest:
                raise OSError(f"it has more than {largest} bytes")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in its name
        raise UserError(f"can't read {path}: {reason_of(error)}") from None


def read_json(path, what, schema=dict, largest=LARGEST_JSON):
    """The content of a JSON file that should be `what`, in words, as an object of `schema`.

    schema is dict or a msgspec.Struct, whose kinds are taken strictly; keys that it does not have
    are ignored. Raises UserError, one line that names the file, where it can't be read, is too
    large, is no such object, or is not what `write_json` wrote. A file without a checksum is
    believed: it was written by hand or by an older program.
    """
    data = read_bytes(path, largest)
    try:
        value = msgspec.json.decode(data, type=dict)
        checksum = value.pop("checksum", None)
        found = msgspec.convert(value, schema)
    except NOT_JSON as error:
        raise UserError(f"{path} is not {what}: {error}") from None
    if checksum is not None and checksum != _checksum(value):
        raise UserError(f"{path} was changed after it was written: its checksum does not fit")
    return found


def write_json(path, value):
    """Write a dictionary or a msgspec.Struct as JSON that a person can read, with its checksum."""
    value = msgspec.to_builtins(value)
    value.pop("checksum", None)
    whole = {**value, "checksum": _checksum(value)}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _checksum(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


@contextlib.contextmanager
def write_errors(path):
    """Turn an OSError of writing `path`, such as a full disk, into a UserError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides the disk's error behind its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        kept = "what was saved before is still there"
        raise UserError(f"can't write {path}: {reason_of(cause)}; {kept}") from None


def refuse_special(path):
    """Only regular files are replaced: not a device, and no link, which may lead elsewhere."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise UserError(f"{path}: only regular files are replaced: give another path")


@contextlib.contextmanager
def atomic_write(path, mode="wb", previous=None):
    """Open a file that appears under its name whole or not at all. mode: "w", "wb" or "w+b".

    The bytes go to a new file next to it with a name of its own, which is opened exclusively, are
    flushed to the disk and then moved into place. With `previous`, the file that stood there
    before is moved to that path first. Raises UserError, one line, where the disk is full, the
    folder can't be written or the path is not a regular file's; nothing half-written is left.
    """
    path = Path(path)
    if not path.name or "\0" in str(path):
        raise UserError(f"{str(path)!r} can't be a file's name")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with write_errors(path):
            refuse_special(path)
            with open(temporary, mode.replace("w", "x"), **text) as file:
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
