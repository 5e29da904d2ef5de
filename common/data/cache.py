"""The cache on disk: where it is, and one process at a time."""

import contextlib
import os
import re
import sys
from pathlib import Path

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_folder(cache_dir=None) -> Path:
    """The cache: the argument, or the environment's LINEAGE_CACHE, or data/cache."""
    folder = Path(cache_dir or os.environ.get("LINEAGE_CACHE") or REPOSITORY / "data" / "cache")
    folder = Path(os.path.expanduser(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {folder}: {error.strerror}; "
            "set LINEAGE_CACHE to a folder that can be written"
        ) from None
    return folder


def slug(name) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "text"


@contextlib.contextmanager
def locked(path, progress=True):
    """Hold the lock of a file. The operating system frees it when its holder dies, however
    that happens, so a lock never outlives its process; the empty .lock file that stays
    behind locks nobody out."""
    import filelock

    lock = filelock.FileLock(f"{path}.lock")
    try:
        try:
            lock.acquire(timeout=2)
        except filelock.Timeout:
            if progress:
                print(f"waiting for another process to finish {Path(path).name}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write in {Path(path).parent}: {error.strerror or error}; "
            "set LINEAGE_CACHE to a folder that can be written"
        ) from None
    try:
        yield
    finally:
        lock.release()


def progress_bar(title, total=None, progress=True):
    """A bar in bytes on stderr, after a moment, and only where a person watches."""
    from tqdm import tqdm

    return tqdm(
        desc=title,
        total=total,
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        disable=None if progress else True,
    )
