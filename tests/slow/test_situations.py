"""Situations of real use, each tried as a user would meet it: none may end in a traceback, a hang,
a wrong status or a leftover.

The table is in situations.py. Each situation is a process of its own, in a folder of its own, that
is forked from one in which everything has been imported.
"""

import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection
from pathlib import Path

from common.cli import run_main
from common.training import summary
from results.saved import load_script
from results.store import script_of

import pytest
from damage import HELD
from inputs import CHINESE, LINE, TEXT, put
from lab import IMPORTED, METHODS, processes
from lineage import ROOT
from situations import ALL, V3, Situation

COMMANDS = "compare evaluate plots probes claims page tables".split()
IMPORTED = [*IMPORTED.split(), "situations", "bpe_tokenizer", "common.tokenizers.load"]
IMPORTED += ["common.tokenizers.classes", *(f"results.{name}" for name in COMMANDS)]
processes.set_forkserver_preload(IMPORTED)
INPUTS = {"plain.txt": TEXT, "chinese.txt": CHINESE, "line.txt": LINE, "same.txt": "a" * 5000}
INPUTS |= {"ends.txt": "\n" * 2000, "spaces.txt": " " * 2000}
AT_ONCE = 2
LONGEST = 300  # seconds after which a situation hangs; on a busy machine some take twenty


def perform(program, args, folder, environment, said, streams):
    """In a process of its own: one of the project's programs, as from a shell in that folder."""
    os.chdir(folder)
    os.environ.update(environment)
    out = os.open(said, os.O_WRONLY | os.O_CREAT)
    if streams == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    if streams == "left":
        read, out = os.pipe()
        os.close(read)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(out, number)
        setattr(sys, name, open(number, "w", encoding="utf-8", buffering=1, closefd=False))
    if streams == "typed":
        read, write = os.pipe()
        os.write(write, b"caf\xe9\n\n")
        os.close(write)
        sys.stdin = open(read, encoding="utf-8")
    if streams == "closed":
        os.close(1)
        os.close(2)
        sys.stdin = sys.stdout = sys.stderr = None
    names = {"results": "results", "bpe": "bpe_tokenizer.py"}
    sys.argv = [names.get(program, f"{program}.py"), *args]
    # Half of the time would go into pictures of losses.
    summary.draw_loss = lambda metrics, path, *rest: path.write(b"")
    if program == "results":
        runpy.run_module("results", run_name="__main__", alter_sys=True)
    elif program == "bpe":
        runpy.run_path(str(ROOT / "bpe_tokenizer.py"), run_name="__main__")
    else:
        run_main(load_script(script_of(program)).main)


class Shelf:
    """A cache, and two finished runs of which each situation gets its own copies."""

    def __init__(self, folder):
        self.folder, self.lock = folder, threading.Lock()

    def fill(self):
        for name, seed in (("run", 1), ("other", 2)):
            command = f"{V3} --data plain.txt --seed {seed} --out-dir {name}"
            wrong, said, work = self.attempt(Situation("", command, 0))
            assert not wrong, said
            shutil.move(work / name, self.folder / name)

    def place(self, situation):
        """A folder for a situation; next to it are the finished runs, and a file `mine`."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        work = home / "work"
        work.mkdir()
        (home / "mine").write_text("mine", encoding="utf-8")
        for name in {"plain.txt", *(INPUTS.keys() & shlex.split(situation.command))}:
            put(work / name, INPUTS[name])
        for run in ("run", "other"):
            if (self.folder / run).exists():
                shutil.copytree(self.folder / run, work / run)
        for name, content in situation.files.items():
            put(work / name, content)
        return work

    def attempt(self, situation):
        """What is wrong with how a situation ended, "" where nothing is; its output; its folder."""
        with self.lock:
            work = self.place(situation)
            before, said = contents(work.parent), work.parent.with_suffix(".said")
            program, *args = shlex.split(situation.command)
            environment = {"LINEAGE_CACHE": str(self.folder / "cache"), **situation.environment}
            values = program, args, work, environment, said, situation.streams
            process = processes.Process(target=perform, args=values)
            process.start()
        # A process's status can be read once: not here while another thread starts one and looks.
        connection.wait([process.sentinel], LONGEST)
        with self.lock:
            process.join(0)
            status = process.exitcode
        text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
        if status is None:
            process.kill()
            process.join()
        says = re.search(situation.says, text, re.DOTALL)
        mine = (work.parent / "mine").read_text(encoding="utf-8")
        left = {name for name in contents(work.parent) - before if "/cache/" not in name}
        if situation.status != 2:
            left = {name for name in left if name.endswith((".tmp", ".lock"))}
        wrong = {
            "a hang": status is None,
            "a traceback": "Traceback" in text or "Error:" in text and "Exception ignored" in text,
            f"status {status}, not {situation.status}": status not in (None, situation.status),
            f"it does not say {situation.says!r}": not (situation.streams or says),
            f"left: {', '.join(sorted(left))}": left,
            "a file outside its folder was written to": mine != "mine",
        }
        return ", ".join(what for what, found in wrong.items() if found), text, work


def contents(folder):
    """The paths below a folder."""
    return {os.path.join(root, n) for root, ds, fs in os.walk(folder) for n in (*ds, *fs)}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    shelf = Shelf(tmp_path_factory.mktemp("situations"))
    shelf.fill()
    yield shelf
    for lock in HELD:
        lock.release()


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in METHODS, reason="a process for each would take too long")
@pytest.mark.parametrize("group", dict.fromkeys(situation.group for situation in ALL))
def test_situations_end_as_they_should(group, shelf):
    tried = [situation for situation in ALL if situation.group == group]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(shelf.attempt, tried))
    bad = [
        f"{wrong}: {situation.command} {situation.files} {situation.environment}\n{said}"
        for situation, (wrong, said, _) in zip(tried, ended, strict=True)
        if wrong
    ]
    print(f"{group}: {len(tried)} situations, {len(bad)} ended badly")
    assert not bad, f"{len(bad)} of {len(tried)} situations ended badly:\n" + "\n".join(bad)
