"""What works on one desktop has to work on the others: the usual slips, looked for in the sources,
and a repository that can't be written."""

import ast
import hashlib
import re
import shutil
import stat

import pytest
from lineage import ROOT, python, story_file

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
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
        documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        if documented and ast.get_docstring(node):
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
            if isinstance(node.value, str) and re.match(r"/(tmp|var|home)\b|[A-Z]:\\", node.value):
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


SLIPS = r"""
import fcntl  # slip
from resource import getrusage  # slip
open('x')  # slip
open('x', 'w')  # slip
io.open('x', mode='a')  # slip
open('x', 'rb')
open('x', encoding='utf-8')
open(path, mode, **text)
path.read_text()  # slip
path.write_text(text)  # slip
subprocess.run(command, text=True)  # slip
subprocess.run(command, shell=True)  # slip
os.kill(1, signal.SIGKILL)  # slip
os.fork()  # slip
x = 'D:\\x'  # slip
x = '/tmp/x'  # slip
began = time.time()  # slip
loss.detach().double()  # slip
loss.cpu().double()
pool = multiprocessing.Pool()  # slip
if os.name == 'posix':
    os.fork()
try:
    import resource
except ImportError:
    import psutil
"""


def test_each_slip_is_found_and_nothing_else():
    lines = enumerate(SLIPS.splitlines(), 1)
    found = sorted(number for number, _ in slips(SLIPS))
    assert found == [number for number, line in lines if line.endswith("# slip")]
    assert slips("pool = multiprocessing.Pool()\nif __name__ == '__main__': main()") == []


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
