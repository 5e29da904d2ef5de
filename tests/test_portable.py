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
from pathlib import Path

import pytest
from lineage import ROOT, story_file

SOURCES = [
    path
    for pattern in ("*.py", "common/*.py", "data/*.py", "tests/*.py")
    for path in sorted(ROOT.glob(pattern))
]
POSIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "pty"}
POSIX_NAMES = {"fork", "SIGKILL", "SIGALRM", "SIGHUP", "SIGXFSZ", "geteuid", "getuid", "mkfifo"}
TEXT_METHODS = {"read_text", "write_text"}


def slips(source):
    """The slips in a program's text, as (line, what)."""
    tree, found = ast.parse(source), []
    lines = source.splitlines()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    strings = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _call_slips(node)]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imported = isinstance(node, ast.Import)
            names = [name.name for name in node.names] if imported else [node.module or ""]
            if POSIX_MODULES & {name.partition(".")[0] for name in names} and not _guarded(node):
                found.append((node.lineno, f"imports {', '.join(names)} without an alternative"))
        elif isinstance(node, ast.Attribute) and node.attr in POSIX_NAMES and not _guarded(node):
            found.append((node.lineno, f"{node.attr} without an alternative"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in strings and re.match(r"/(tmp|var|home)\b|[A-Z]:\\", node.value):
                if "# not opened" not in lines[node.lineno - 1]:
                    found.append((node.lineno, f"a path of one system: {node.value!r:.40}"))
    starts = any(slip == "starts processes" for _, slip in found)
    if not starts or "__main__" in source:
        found = [(line, slip) for line, slip in found if slip != "starts processes"]
    return found


def _has_docstring(node):
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)


def _call_slips(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    modes = [*call.args[:2], *([options["mode"]] if "mode" in options else [])]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
    binary = any(isinstance(text, str) and "b" in text and len(text) <= 3 for text in texts)
    given = "encoding" in options or None in options  # None: handed on by **
    if name == "open" and owner in ("", "io") and not binary and not given:
        if len(call.args) < 2 or isinstance(call.args[1], ast.Constant):
            yield "open() of text without an encoding"
    if name in TEXT_METHODS and not given and len(call.args) < 1 + (name == "write_text"):
        yield f"{name}() without an encoding"
    if isinstance(options.get("text"), ast.Constant) and owner == "subprocess" and not given:
        yield "a subprocess' text without an encoding"
    if isinstance(options.get("shell"), ast.Constant) and options["shell"].value:
        yield "shell=True"
    if name == "time" and owner == "time":
        yield "time.time(), which may jump: time.perf_counter() measures"
    if name == "double" and getattr(getattr(call.func.value, "func", None), "attr", "") != "cpu":
        yield "double() where a tensor may lie on MPS, which has none: .cpu().double()"
    if name in ("Pool", "ProcessPoolExecutor") and _at_top(call):
        yield "starts processes"


def _at_top(node):
    while hasattr(node, "parent"):
        node = node.parent
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return False
    return True


def _guarded(node):
    """Under a try, a test of the system, or in a function or test that is skipped elsewhere."""
    while hasattr(node, "parent"):
        node = node.parent
        if isinstance(node, (ast.Try, ast.If)):
            return True
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if any("skipif" in ast.dump(mark) for mark in node.decorator_list):
                return True
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_slips(path):
    found = slips(path.read_text(encoding="utf-8"))
    if path.parent == ROOT / "tests":  # tests compute on the CPU
        found = [(line, what) for line, what in found if "MPS" not in what]
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


def test_everything_runs_from_a_repository_that_cannot_be_written(tmp_path):
    """Given --out-dir and LINEAGE_CACHE; the administrator may write everywhere, so that nothing
    was written is looked at as well."""
    copy = tmp_path / "repository"
    names = ("*.py", "common/*.py", "data/*", "results/*", "requirements.txt", "README.md")
    for path in (path for name in names for path in ROOT.glob(name)):
        if path.is_file():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
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
    """name -> hash of every file; what Python compiles beside its sources is left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
