"""A run's folder: who holds it, what lies in it, and how an older run makes room."""

import contextlib
import os
import stat
from pathlib import Path

from common.cli import read_config
from common.errors import UserError
from common.files import atomic_write, write_errors, write_json

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
        try:
            created = [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_special_files()
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
        self._remove_half_written()

    def _refuse_special_files(self):
        """A pipe would be waited for without end, and what a link leads to would be overwritten."""
        for path in (self.path / name for name in (*FILES, ".lock")):
            if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
                raise UserError(
                    f"{path} is not a regular file: remove it, or give another --out-dir"
                )

    def _refuse_other_programs(self):
        """Files of these names are somebody's work where there is no config.json of a run, which is
        the first to be written and the last to be moved aside.
        """
        config, found = self.path / "config.json", [n for n in FILES if (self.path / n).exists()]
        try:
            if found and not config.exists():
                raise UserError(f"it holds {', '.join(found)} but no config.json")
            if found:
                read_config(config)
        except UserError as error:
            self.release()
            raise UserError(
                f"{self.path} is not a run's folder: {error}; give another --out-dir"
            ) from None

    def _remove_half_written(self):
        """What runs left that were killed while they wrote a file."""
        for name in FILES:
            for half in self.path.glob(f"{name}.*.tmp"):
                half.unlink(missing_ok=True)

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

    def begin(self, version, settings, source, tokenizer):
        """Make room for a new run and write down what it is; source: the script's bytes."""
        self._move_older_run_aside()
        self.write_settings(version, settings, source)
        with write_errors(self.path / "tokenizer.json"):
            tokenizer.save(self.path / "tokenizer.json")

    def write_settings(self, version, settings, source):
        # config.json is the first: by this file a run's folder is known.
        write_json(self.path / "config.json", {"version": version, "config": settings})
        with atomic_write(self.path / "script.py") as file:
            file.write(source)

    def _move_older_run_aside(self):
        """Move what an older run left to FOLDER.1, or the first number that is free; say so.

        A kill halfway leaves some of it here and some there; the next run then moves the rest.
        """
        old = [name for name in FILES if (self.path / name).exists()]
        if not old:
            return
        plain = self.path.name.strip(".") and not self.path.is_symlink()
        try:
            aside = self._move(old, self.path if plain else self.path.resolve())
        except OSError:  # the folder is a mount point, or the one above it can't be written
            with write_errors(self.path):
                aside = self._move(old, self.path / "older")
        print(f"the run that was in {self.path} is now in {aside}")

    def _move(self, names, home):
        """Move the files to HOME.1, or the first number that is free; return that folder."""
        number = 1
        while Path(f"{home}.{number}").exists():
            number += 1
        if number > 1 and _is_half_moved(Path(f"{home}.{number - 1}"), names):
            number -= 1
        aside = Path(f"{home}.{number}")
        aside.mkdir(exist_ok=True)
        try:
            for name in names:
                os.replace(self.path / name, aside / name)
        except OSError:
            with contextlib.suppress(OSError):
                aside.rmdir()
            raise
        return aside


def _is_half_moved(aside, names):
    """Does that folder hold the first part of a run of which these names are the rest?"""
    there = {path.name for path in aside.iterdir()} if aside.is_dir() else {""}
    return there <= set(FILES[:-1]) - set(names)  # config.json would have come last
