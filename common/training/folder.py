"""A run's folder: who holds it, what lies in it, and how an older run makes room."""

import contextlib
import itertools
import os
from pathlib import Path

from common.cli import read_config
from common.errors import UserError
from common.files import atomic_write, refuse_special, write_errors, write_json

from filelock import FileLock, Timeout

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the newest first
BEST = ("best.pt", *CHECKPOINTS)  # the best weights where they were kept, else the last
# What `python -m results …` measured of the best weights of a run.
MEASURED = "probes.json claims.json evaluation.json".split()
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
        self._lock, self._created, self._old = FileLock(self.path / ".lock"), [], []

    def __truediv__(self, name):
        return self.path / name

    def take(self, text):
        """Make the folder and lock it; nothing else is written yet. It can't be that of the run's
        text, which would be read as a run's from then on."""
        both = os.path.isdir(self.path) and os.path.exists(text)
        if os.path.isfile(self.path) or both and os.path.samefile(self.path, text):
            taken = f"--out-dir {self.path} is a file or the text's folder"
            raise UserError(f"{taken}: give the run its own")
        with write_errors(f"to the folder {self.path}"):
            above = (self.path, *self.path.parents)
            self._created = [path for path in above if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (*FILES, ".lock"):  # a pipe would be waited for without end
                refuse_special(self.path / name)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                taken = f"another run is writing to {self.path}"
                raise UserError(f"{taken}: wait for it or give another --out-dir") from None
        # Files of these names are somebody's work where there is no config.json of a run, which is
        # the first to be written and the last to be moved aside.
        self._old = [name for name in FILES if (self.path / name).exists()]
        if self._old:
            try:
                read_config(self.path / "config.json")
            except UserError as error:
                self.release()
                what = f"{self.path} is not a run's folder, though it holds {self._old[0]}"
                raise UserError(f"{what}: {error}; give another --out-dir") from None
        for name in FILES:  # what runs left that were killed while they wrote a file
            for half in self.path.glob(f"{name}.*.tmp"):
                half.unlink(missing_ok=True)

    def release(self):
        """Unlock the folder; one that was made for nothing is removed again."""
        if not self._lock.is_locked:
            return
        # While it is held, or the next run's might go; Windows removes it when it is released.
        with contextlib.suppress(OSError):
            (self.path / ".lock").unlink(missing_ok=True)
        self._lock.release()
        with contextlib.suppress(OSError):
            for path in self._created:  # the run's folder, then those above it
                path.rmdir()  # raises OSError, and so ends this, where something is in it

    def begin(self, run):
        """Write down what the run is. A new one first makes room for itself. One that goes on loses
        its result, because a run that has one is complete.
        """
        if self._old and not run.config.resume:
            run.log.say(f"the run that was in {self.path} is now in {self._move_aside()}")
        (self.path / "result.json").unlink(missing_ok=True)
        # config.json is the first: by this file a run's folder is known.
        write_json(self.path / "config.json", {"version": run.version, "config": run.settings()})
        with atomic_write(self.path / "script.py") as file:
            file.write(run.source)
        run.tokenizer.save(self.path / "tokenizer.json")

    def _move_aside(self):
        """Move the older run to FOLDER.1, or the first number that is free; return that folder."""
        plain = self.path.name.strip(".") and not self.path.is_symlink()
        named = self.path if plain else self.path.resolve()
        # Inside, where the folder is a mount point or the one above it can't be written.
        for home in (named, self.path / "older"):
            numbered = (Path(f"{home}.{number}") for number in itertools.count(1))
            aside = next(path for path in numbered if _has_room(path, self._old))
            try:
                aside.mkdir(exist_ok=True)
                for name in self._old:
                    os.replace(self.path / name, aside / name)
                return aside
            except OSError as error:
                failed = error
                with contextlib.suppress(OSError):
                    aside.rmdir()
        with write_errors(self.path):
            raise failed


def _has_room(aside, names):
    """Whether a folder is free for these files: it does not exist, or a kill halfway left there the
    first part of the run of which these are the rest. config.json would have come last.
    """
    if not aside.exists():
        return True
    return aside.is_dir() and {*os.listdir(aside)} <= {*FILES} - {*names, "config.json"}
