"""The cache on disk: where it is, what it remembers, and one process at a time."""

import contextlib
import os
import re
import sys
from pathlib import Path

from common.errors import UserError, reason_of

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """The cache of token files and trained vocabularies: LINEAGE_CACHE, or data/cache."""
    folder = os.environ.get("LINEAGE_CACHE") or REPOSITORY / "data" / "cache"
    return Path(os.path.expanduser(folder))


def slug(name) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "text"


def made_once(path, read, make):
    """What read(path) returns; where it raises UserError or OSError, since nothing is there or it
    is damaged, what make(path) returns.

    One process at a time: others that want the same file wait and then read it. The operating
    system frees the lock when its holder dies, however that happens, so a lock never outlives its
    process; the empty .lock file that stays locks nobody out.
    """
    import filelock

    lock = filelock.FileLock(f"{path}.lock")  # makes its folder too
    try:
        try:
            held = lock.acquire(timeout=2)
        except filelock.Timeout:
            print(f"waiting for another process to finish {path.name}", file=sys.stderr)
            held = lock.acquire()
    except OSError as error:
        advice = f"{reason_of(error)}; set LINEAGE_CACHE to a folder that can be written"
        raise UserError(f"cannot write in {path.parent}: {advice}") from None
    with held:
        with contextlib.suppress(UserError, OSError):
            return read(path)
        return make(path)


def progress_bar(title, total=None):
    """A bar on stderr, in bytes, after one second, and only where a person watches."""
    from tqdm import tqdm

    return tqdm(None, title, total, leave=False, disable=None, unit="B", unit_scale=True, delay=1)
