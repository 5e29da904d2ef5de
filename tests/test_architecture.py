"""Imports go one way, modules and classes are small, and `python v0.py` loads little."""

import ast
import shutil
from itertools import takewhile

import pytest
from lineage import ROOT, VERSIONS, python

LAYERS = "common.errors common.files common.config common.cli common.data common.bpe".split()
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


def lint(folder):
    """The exit status of import-linter in a folder, and what it prints."""
    program = "import importlinter.cli as cli; cli.lint_imports_command(['--no-cache'])"
    done = python("-c", program, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def test_packages_import_in_one_direction():
    status, report = lint(ROOT)
    assert status == 0, report


WRONG_WAY = {
    "common/errors.py": "import common.files",
    "common/data/cache.py": "def late():\n    from results import tables",
    "common/evaluation/ngram.py": "from common.training.log import Log",
    "common/cli.py": "from data import world",
    "data/world.py": "from common.errors import UserError",
}


@pytest.mark.slow
def test_imports_against_the_direction_are_found(tmp_path):
    for name in ("common", "results", "data", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for path, line in WRONG_WAY.items():
        with open(tmp_path / path, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    status, report = lint(tmp_path)
    assert status == 1 and report.count("BROKEN") == 3  # every contract
    for path in WRONG_WAY:
        assert f"{path.removesuffix('.py').replace('/', '.')} -> " in report, report


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
    large = []
    for path in PACKAGES:
        text = path.read_text(encoding="utf-8")
        large += [path.name] * (len(text.splitlines()) > 400)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= 250:
                large.append(f"{path.name}: {node.name}")
    assert large == []


def test_the_first_script_loads_little_of_the_project():
    program = """
import runpy, sys
sys.argv = ["v0.py", "--help"]
try:
    runpy.run_path("v0.py", run_name="__main__")
except SystemExit:
    files = [getattr(module, "__file__", "") for module in sys.modules.values()]
    print("LOADED", *files, sep="\\n")
"""
    done = python("-c", program, cwd=ROOT)
    loaded = {str(ROOT / "v0.py"), *done.stdout.partition("LOADED\n")[2].splitlines()}
    own = [path for path in [*ROOT.glob("*.py"), *PACKAGES] if str(path) in loaded]
    assert ROOT / "common" / "training" / "run.py" in own, done.stderr
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in own}
    assert sum(lines.values()) < 4200, lines
