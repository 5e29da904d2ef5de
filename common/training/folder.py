"""A run's folder: who holds it, what lies in it, and how an older run makes room."""

import contextlib
import os
from pathlib import Path

from common.cli import read_config
from common.errors import UserError
from common.files import write_errors

from filelock import FileLock, Timeout

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the newest first
# What `python -m results …` measured of the best weights of a run.
MEASURED = "probes.json claims.json heldout.json evaluation.json".split()
FILES = [  # in the order in which an old run is moved aside: while config.json stands, it is a run
    *"checkpoint.previous.pt checkpoint.pt best.pt model.safetensors metrics.jsonl".split(),
    *"samples.txt loss.png script.py tokenizer.json result.json".split(),
    *MEASURED,
    "config.json",
]


class RunFolder:
    """The folder `path`, held by a lock from `take` to `release`.

    Raises UserError where it is in use, can't be written or holds something that is no run.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._lock, self._created = None, []

    def __truediv__(self, name):
        return self.path / name

    def take(self):
        """Make the folder and lock it; nothing else is written yet."""
        created = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another run is writing to {self.path}: wait for it or give another --out-dir"
            ) from None
        except OSError as error:
            raise UserError(
                f"can't write to the folder {self.path}: {error.strerror or error}; give another"
                " --out-dir"
            ) from None
        self._created = created
        self._refuse_other_programs()

    def _refuse_other_programs(self):
        """A config.json or weights that no run here has written are somebody's work."""
        config = self.path / "config.json"
        reason = "has files of a model but no config.json"
        if config.exists():
            try:
                read_config(config)
                return
            except UserError as error:
                reason = str(error)
        elif not any((self.path / n).exists() for n in ("model.safetensors", "tokenizer.json")):
            return
        elif any((self.path / n).exists() for n in ("metrics.jsonl", "checkpoint.pt", "script.py")):
            return  # a run that was killed while it was moved aside
        self.release()
        raise UserError(f"{self.path} is not a run's folder: {reason}; give another --out-dir")

    def release(self):
        """Unlock the folder; one that was made for nothing is removed again."""
        if self._lock is None or not self._lock.is_locked:
            return
        # While it is held, or the next run's might go; Windows removes it when it is released.
        with contextlib.suppress(OSError):
            (self.path / ".lock").unlink(missing_ok=True)
        self._lock.release()
        with contextlib.suppress(OSError):
            for path in self._created:  # the run's folder, then those above it
                path.rmdir()  # raises OSError, and so ends this, where something is in it

    def move_older_run_aside(self):
        """Move what an older run left to FOLDER.1, or the first number that is free; say so.

        A kill halfway leaves some of it here and some there; the next run then moves the rest.
        """
        old = [name for name in FILES if (self.path / name).exists()]
        if not old:
            return
        home = self.path if self.path.name.strip(".") else self.path.resolve()
        number = 1
        while Path(f"{home}.{number}").exists():
            number += 1
        if number > 1 and _is_half_moved(Path(f"{home}.{number - 1}"), old):
            number -= 1
        aside = Path(f"{home}.{number}")
        with write_errors(aside):
            aside.mkdir(exist_ok=True)
            for name in old:
                os.replace(self.path / name, aside / name)
        print(f"the run that was in {self.path} is now in {aside}")


def _is_half_moved(aside, names):
    """Does that folder hold the first part of a run of which these names are the rest?"""
    there = {path.name for path in aside.iterdir()} if aside.is_dir() else {""}
    return there <= set(FILES[:-1]) - set(names)  # config.json would have come last
