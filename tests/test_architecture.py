"""Imports go one way, modules and classes are small, and `python v0.py` loads little."""

import ast
from itertools import takewhile

from results.scripts import code_lines

import pytest
from lineage import ROOT, VERSIONS, python

ABOVE = "common.tokenizers common.evaluation common.training results".split()  # bpe_tokenizer
PACKAGES = sorted(path for name in ("common", "results") for path in ROOT.glob(f"{name}/**/*.py"))


def name_of(path):
    """results.compare for results/compare.py, common.data for common/data/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """The modules that a file imports, lazily or not; what only its own program needs is left out.

    Of `from package import name` both `package` and `package.name` are in the list.
    """
    names = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for part in takewhile(lambda node: "'__main__'" not in ast.dump(node), tree.body):
        for node in ast.walk(part):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def belongs(name, packages):
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def test_packages_import_in_one_direction():
    """As import-linter finds by the contracts in pyproject.toml."""
    program = "import importlinter.cli as cli; cli.lint_imports_command(['--no-cache'])"
    done = python("-c", program, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tokenizers_module_lies_between_its_layers():
    """import-linter knows packages alone."""
    for name in imported(ROOT / "bpe_tokenizer.py"):
        assert not belongs(name, ABOVE) and not belongs(name, ["data"]), name
    for path in [*PACKAGES, *ROOT.glob("data/*.py")]:
        if "bpe_tokenizer" in imported(path):
            assert belongs(name_of(path), ABOVE), path


def test_scripts_import_common_alone_of_the_project():
    own = {path.stem for path in ROOT.glob("*.py")} | {"results", "data", "tests"}
    for version in VERSIONS:
        names = {name.partition(".")[0] for name in imported(ROOT / f"{version}.py")}
        assert "common" in names and not names & own, version


def test_modules_and_classes_are_small():
    for path in PACKAGES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno < 250, (path, node.name)


# ---- What a command loads ------------------------------------------------------------------------

# Slow to import, and wanted only once a picture is drawn, a dataset read, an interval computed.
HEAVY = "matplotlib scipy datasets pandas pyarrow transformers jinja2 safetensors".split()
HEAVY += "torch tyro argparse tiktoken tokenizers".split()
HELP = """
import contextlib
sys.argv = ["x", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path("{}.py", run_name="__main__")
"""
VOCABULARY = """
from bpe_tokenizer import BPETokenizer
tokenizer = BPETokenizer.train("some text some text", 262)
tokenizer.decode(tokenizer.encode("some"))
"""
SAMPLE = "from common.data import load_corpus; load_corpus('sample').sha256"


def loaded(program, **environment):
    """The names of the modules that are imported when a program has run."""
    program = f"import runpy, sys\n{program}\nprint('|', *sys.modules)"
    done = python("-c", program, cwd=ROOT, **environment)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("|")[2].split())


def test_nothing_slow_is_imported_at_the_start():
    last = f"import {', '.join(VERSIONS)}" + HELP.format(VERSIONS[-1])
    assert loaded(last) & {*HEAVY} <= {"torch", "tyro", "argparse"}
    assert loaded(VOCABULARY) & {*HEAVY} == loaded(SAMPLE) & {*HEAVY} == set()


@pytest.mark.slow
def test_the_first_script_loads_little_of_the_project(tmp_path):
    """All of a run counts, in which the vocabulary is learned too."""
    program = """sys.argv = ["v0.py", "--steps", "2", "--out-dir", {!r}]
runpy.run_path("v0.py", run_name="__main__")""".format(str(tmp_path / "run"))
    names = loaded(program, LINEAGE_CACHE=str(tmp_path / "cache"))
    own = [path for path in [*ROOT.glob("*.py"), *PACKAGES] if name_of(path) in {*names, "v0"}]
    lines = {path: len(code_lines(path)) for path in own}  # two files may have one name
    assert ROOT / "common/training/run.py" in lines and sum(lines.values()) < 2500, lines
