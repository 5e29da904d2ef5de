"""The cache on disk: where it is, what it remembers, and one process at a time."""

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path

from common.errors import UserError, reason_of
from common.files import read_json, write_json

import msgspec

REPOSITORY = Path(__file__).resolve().parents[2]
WRITABLE = "set LINEAGE_CACHE to a folder that can be written"


def cache_folder(cache_dir=None) -> Path:
    """The cache: the argument, or the environment's LINEAGE_CACHE, or data/cache."""
    folder = Path(cache_dir or os.environ.get("LINEAGE_CACHE") or REPOSITORY / "data" / "cache")
    folder = Path(os.path.expanduser(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{reason_of(error)}; {WRITABLE}"
        raise UserError(f"cannot make the cache folder {folder}: {reason}") from None
    return folder


def slug(name) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "text"


def made_once(path, read, make, progress=True):
    """What read(path) returns; where it raises UserError or OSError, since nothing is there or it
    is damaged, what make(path) returns.

    One process at a time: others that want the same file wait and then read it. The operating
    system frees the lock when its holder dies, however that happens, so a lock never outlives its
    process; the empty .lock file that stays locks nobody out.
    """
    import filelock

    lock = filelock.FileLock(f"{path}.lock")
    try:
        try:
            lock.acquire(timeout=2)
        except filelock.Timeout:
            if progress:
                print(f"waiting for another process to finish {path.name}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write in {path.parent}: {reason_of(error)}; {WRITABLE}") from None
    try:
        with contextlib.suppress(UserError, OSError):
            return read(path)
        return make(path)
    finally:
        lock.release()


def remembered(key, kind, make, cache_dir=None):
    """The value of make(), which is kept in the cache under its key; without a key it is not kept.

    kind: the value's type, for msgspec. What the cache holds of another type is made again.
    """
    if not key:
        return make()
    path = cache_folder(cache_dir) / f"facts-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    kept = msgspec.defstruct("Kept", [("key", str), ("value", kind)])

    def make_and_keep(path):
        value = make()
        write_json(path, kept(key, value))
        return value

    def read(path):
        return read_json(path, "a value of the cache", kept).value

    return made_once(path, read, make_and_keep)


def progress_bar(title, total=None, progress=True):
    """A bar on stderr, in bytes, after one second, and only where a person watches."""
    from tqdm import tqdm

    bar = {"unit": "B", "unit_scale": True, "delay": 1, "leave": False}
    return tqdm(desc=title, total=total, disable=None if progress else True, **bar)
