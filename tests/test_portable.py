"""What works on one desktop has to work on the others: the usual slips, looked for in the sources,
and a repository that can't be written."""

import ast
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from lineage import ROOT, story_file

FOLDERS = ("", "common/**/", "data/", "results/**/", "tests/")
SOURCES = sorted({path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.py")})
POSIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "pty"}
POSIX_NAMES = set("fork SIGKILL SIGALRM SIGHUP SIGCONT SIGXFSZ geteuid getuid mkfifo".split())
CALLS = [  # what is wrong; the function's name; what its arguments have, and lack
    ("no encoding", r"(io\.)?open", "", r"encoding=|\*\*|'[rwax+]*b\+?'|, mode[,)]"),
    ("no encoding", r".*\.(read|write)_text", "", r"encoding=|\*\*|'utf-8'"),
    ("no encoding", r"subprocess\.\w+", r"text=True", r"encoding="),
    ("a shell", r"subprocess\.\w+", r"shell=True", "$^"),
    ("may jump: time.perf_counter() measures", r"time\.time", "", "$^"),
    ("MPS has no float64: .cpu().double()", r"(?!.*\.cpu\(\)).*\.double", "", "$^"),
]


def slips(source):
    """The slips in a program's text, as (line, what)."""
    tree, found, docstrings = ast.parse(source), [], set()
    lines = source.splitlines()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(
            node
        ):
            docstrings.add(node.body[0].value)
    for node in ast.walk(tree):
        what = None
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            arguments = ast.unparse(node).removeprefix(name)
            for slip, function, has, lacks in CALLS:
                if re.fullmatch(function, name, re.DOTALL) and re.search(has, arguments):
                    what = what if re.search(lacks, arguments) else slip
            if re.search("Pool(Executor)?$", name) and not _within(node, ast.FunctionDef):
                what = None if "__main__" in source else "starts processes when imported"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imported = isinstance(node, ast.Import)
            names = {name.name for name in node.names} if imported else {node.module}
            if names & POSIX_MODULES and not _guarded(node):
                what = f"imports {names} without an alternative"
        elif isinstance(node, ast.Attribute) and node.attr in POSIX_NAMES and not _guarded(node):
            what = f"{node.attr} without an alternative"
        elif isinstance(node, ast.Constant) and node not in docstrings:
            path = isinstance(node.value, str) and re.match(
                r"/(tmp|var|home)\b|[A-Z]:\\", node.value
            )
            if path and "# not opened" not in lines[node.lineno - 1]:
                what = f"a path of one system: {node.value!r:.40}"
        if what:
            found.append((node.lineno, what))
    return found


def _within(node, *kinds):
    """The nodes around this one that are of these kinds."""
    found = []
    while hasattr(node, "parent"):
        node = node.parent
        found += [node] if isinstance(node, kinds) else []
    return found


def _guarded(node):
    """Under a try, a test of the system, or in a function or test that is skipped elsewhere."""
    around = _within(node, ast.FunctionDef, ast.ClassDef)
    marks = " ".join(ast.dump(mark) for each in around for mark in each.decorator_list)
    return bool(_within(node, ast.Try, ast.If)) or bool(re.search("skipif|POSIX", marks))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_has_no_slips(path):
    found = slips(path.read_text(encoding="utf-8"))
    if path.parent == ROOT / "tests":  # they compute on the CPU, and write ASCII
        found = [(line, what) for line, what in found if not re.match("MPS|no encoding", what)]
    assert found == [], "\n".join(f"{path}:{line}: {what}" for line, what in found)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (r"x = 'D:\\x'", "D:"),
        ("open('x')", "encoding"),
        ("open('x', 'w')", "encoding"),
        ("io.open('x', mode='a')", "encoding"),
        ("path.read_text()", "encoding"),
        ("path.write_text(text)", "encoding"),
        ("subprocess.run(command, text=True)", "encoding"),
        ("subprocess.run(command, shell=True)", "shell"),
        ("import fcntl", "fcntl"),
        ("from resource import getrusage", "resource"),
        ("os.kill(1, signal.SIGKILL)", "SIGKILL"),
        ("os.fork()", "fork"),
        ("x = '/tmp/x'", "/tmp"),  # not opened
        ("began = time.time()", "jump"),
        ("pool = multiprocessing.Pool()", "starts processes"),
        ("loss.detach().double()", "MPS"),
    ],
)
def test_each_slip_is_found(line, what):
    [(number, said)] = slips(f"import x\n{line}\n")
    assert number == 2 and what in said


@pytest.mark.parametrize(
    "text",
    [
        "open('x', 'rb')",
        "open('x', encoding='utf-8')",
        "open(path, mode, **text)",
        "loss.cpu().double()",
        "try:\n    import resource\nexcept ImportError:\n    import psutil",
        "if os.name == 'posix':\n    os.fork()",
        "pool = multiprocessing.Pool()\nif __name__ == '__main__': main()",
    ],
)
def test_what_is_no_slip_is_not_found(text):
    assert slips(text) == []


@pytest.mark.slow
def test_everything_runs_from_a_repository_that_cannot_be_written(tmp_path):
    """Given --out-dir and LINEAGE_CACHE; the administrator may write everywhere, so that nothing
    was written is looked at as well."""
    copy = tmp_path / "repository"
    copy.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    leave = shutil.ignore_patterns("__pycache__", "cache")
    for folder in ("common", "data"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave)
    paths = [copy, *copy.rglob("*")]
    before = listing(copy)
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    story_file(tmp_path)
    env = {**os.environ, "LINEAGE_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": "utf-8"}
    sizes = "--steps 2 --eval-every 1 --max-new-tokens 3 --vocab-size 300 --context-length 16"
    train = [copy / "v2.py", *sizes.split(), "--data", "story.txt", "--out-dir", "run"]
    vocabulary = ["--data", "story.txt", "--vocab-size", "300", "--out", "vocab.json"]
    try:
        for command in (
            [*train, "--n-embd", "16"],
            [copy / "v2.py", "--resume", "--steps", "3", "--out-dir", "run"],
            [copy / "bpe_tokenizer.py", "train", *vocabulary],
        ):
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True
            )
            assert done.returncode == 0, done.stderr.decode("utf-8", errors="replace")
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
