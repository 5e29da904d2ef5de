"""What works on one desktop has to work on the others: the usual slips, looked for in the sources,
and a repository that can't be written."""

import hashlib
import re
import shutil
import stat

import pytest
from lineage import ROOT, python, story_file

FOLDERS = ("", "common/**/", "data/", "results/**/")
SOURCES = sorted({path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.py")})
RULES = "PLW1514,S602,S604,S605,S108,TID251"  # no encoding; a shell; a path of one system; banned
POSIX = "resource fcntl pwd grp termios pty os.fork os.mkfifo os.getuid os.geteuid".split()
POSIX += "signal.SIGKILL signal.SIGALRM signal.SIGHUP signal.SIGCONT signal.SIGXFSZ".split()
BANNED = [*POSIX, "time.time"]  # the clock may jump: time.perf_counter() measures
GUARDED = {
    "environment.py": "banned-api: `resource` is banned: "
}  # what it does elsewhere stands next to it
LINES = [r"\.read_text\(\)", r"io\.open\((?!.*encoding)", r"text=True(?!.*encoding)"]  # no encoding
LINES += [r"(?<!\.cpu\(\))\.double\(\)", r"^\S.*Pool(Executor)?\("]  # no float64 on MPS; at import
SLIPS = r"""
import fcntl, io, os, pathlib, signal, subprocess, time
from resource import getrusage
open('x')
io.open('x', mode='a')
pathlib.Path('x').write_text('y')
path.read_text()
subprocess.run(command, text=True)
subprocess.run(command, shell=True)
os.kill(1, signal.SIGKILL)
os.fork()
x = '/tmp/x'
began = time.time()
loss.detach().double()
pool = multiprocessing.Pool()
"""
FINE = """
open('x', 'rb')
open('x', encoding='utf-8')
path.read_text(encoding='utf-8')
loss.cpu().double()
"""


def slips(paths):
    """The slips in files: {(file's name, line)}."""
    banned = ", ".join(f'"{name}" = {{msg = ""}}' for name in BANNED)
    options = ["--config", f"lint.flake8-tidy-imports.banned-api = {{{banned}}}", "--isolated"]
    options += ["--preview", "--select", RULES, "--output-format", "concise"]
    said = python("-m", "ruff", "check", *options, *paths).stdout
    lines = re.findall(r"([^/\\\n]+\.py):(\d+):\d+: (.*)", said)
    found = {(name, int(n)) for name, n, what in lines if GUARDED.get(name) != what}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(re.search(each, line) for each in LINES):
                found.add((path.name, number))
    return found


def test_sources_have_none_of_the_usual_slips(tmp_path):
    assert slips(SOURCES) == set()
    for name, text in (("slips.py", SLIPS), ("fine.py", FINE)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    numbers = range(2, len(SLIPS.splitlines()) + 1)
    assert slips([*tmp_path.iterdir()]) == {("slips.py", number) for number in numbers}


@pytest.mark.slow
def test_everything_runs_from_a_repository_that_cannot_be_written(tmp_path):
    """Given --out-dir and LINEAGE_CACHE; the administrator may write everywhere, so that nothing
    was written is looked at as well."""
    copy = tmp_path / "repository"
    leave = shutil.ignore_patterns("__pycache__", "cache")
    for folder in ("common", "data"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    paths, before = [copy, *copy.rglob("*")], listing(copy)
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    story_file(tmp_path)
    sizes = "--steps 2 --eval-every 1 --max-new-tokens 3 --vocab-size 300 --context-length 16"
    train = f"v2.py {sizes} --n-embd 16 --data story.txt --out-dir run"
    resume = "v2.py --resume --steps 3 --out-dir run"
    vocabulary = "bpe_tokenizer.py train --data story.txt --vocab-size 300 --out vocab.json"
    try:
        for command in (train, resume, vocabulary):
            script, *args = command.split()
            done = python(copy / script, *args, cwd=tmp_path, LINEAGE_CACHE=str(tmp_path / "cache"))
            assert done.returncode == 0, done.stderr
        assert listing(copy) == before
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "vocab.json").exists()


def listing(folder):
    """name -> hash of every file; what Python compiles is left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
