"""Writing files so that a crash, a kill or a full disk loses nothing that was saved before."""

import contextlib
import os
from pathlib import Path

from common.errors import UserError


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
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UserError(
                f"can't write {path}: {reason}; what was saved before is still there"
            ) from None
        raise
