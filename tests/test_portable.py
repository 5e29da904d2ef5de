"""What works on one desktop has to work on the others: the usual slips, looked for in the sources,
and a repository that can't be written."""

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
LINES = [r"\.read_text\(\)", r"io\.open\((?!.*encoding)", r"text=True(?!.*encoding)"]  # no encoding
LINES += [r"(?<!\.cpu\(\))\.double\(\)", r"^\S.*Pool(Executor)?\("]  # no float64 on MPS; at import


def test_sources_have_none_of_the_usual_slips():
    # The clock may jump: time.perf_counter() measures.
    banned = ", ".join(f'"{name}" = {{msg = ""}}' for name in [*POSIX, "time.time"])
    options = ["--config", f"lint.flake8-tidy-imports.banned-api = {{{banned}}}", "--isolated"]
    # Next to what that file does on POSIX stands what it does elsewhere.
    options += ["--preview", "--select", RULES, "--per-file-ignores", "summary.py:TID251"]
    done = python("-m", "ruff", "check", *options, *SOURCES)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not any(re.search(each, line) for each in LINES), (path.name, line)


@pytest.mark.slow
def test_everything_runs_from_a_repository_that_cannot_be_written(tmp_path):
    """Given --out-dir and LINEAGE_CACHE; the administrator may write everywhere, so that nothing
    was written is looked at as well."""
    copy = tmp_path / "repository"
    leave = shutil.ignore_patterns("__pycache__", "cache", "models", "*.json", "page.html")
    for folder in ("common", "data", "results"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    paths = [copy, *copy.rglob("*")]
    files = {path: path.read_bytes() for path in paths if path.is_file()}
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
        now = [path for path in copy.rglob("*.*") if path.suffix != ".pyc"]
        assert {path: path.read_bytes() for path in now} == files
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "vocab.json").exists()
