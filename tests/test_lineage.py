"""The lineage's budgets: short scripts, small steps, the same sections, no script in another."""

import ast
import difflib

import pytest
from lineage import ROOT, VERSIONS

LONGEST = {"v0": 150, "v4": 350}
ADDED = {("v1_1", "v2"): 120}  # the step to a transformer; every other may add 80
STEPS = list(zip(VERSIONS, VERSIONS[1:]))


def lines(version):
    return (ROOT / f"{version}.py").read_text(encoding="utf-8").splitlines()


def headers(version):
    return [line.strip("#- ") for line in lines(version) if line.startswith("# ----")]


@pytest.mark.parametrize("version", VERSIONS)
def test_length_and_width(version):
    assert len(lines(version)) <= LONGEST.get(version, 350)
    assert max(map(len, lines(version))) <= 100


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_step_is_a_small_diff(before, after):
    old, new = lines(before), lines(after)
    diff = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]
    added, removed = (sum(line[0] == sign for line in diff) for sign in "+-")
    assert added <= ADDED.get((before, after), 80)
    assert removed <= 30
    assert removed <= 0.15 * len(old)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_sections_in_the_same_order(version):
    assert headers(version) == headers("v0")
    assert headers(version) == ["Batches", "Model", "Sampling", "Training", "Command line"]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_version_imports_another(version):
    tree = ast.parse((ROOT / f"{version}.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert not names & set(VERSIONS)


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_names_stay(before, after):
    """Functions and fields that both versions have keep their place; fields keep their help."""

    def fields(version):
        tree = ast.parse("\n".join(lines(version)))
        config = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
        return [node.target.id for node in config.body if isinstance(node, ast.AnnAssign)]

    def functions(version):
        tree = ast.parse("\n".join(lines(version)))
        return [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]

    for names in (fields, functions):
        old, new = names(before), names(after)
        assert [n for n in old if n in new] == [n for n in new if n in old]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_explained(version):
    source = lines(version)
    start = source.index("class Config:")
    for line in source[start + 1 :]:
        if not line.strip():
            break
        assert "  # " in line, line


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_the_docstring_names_the_step(before, after):
    text = "\n".join(lines(after)[:12])
    assert f"diff {before}.py {after}.py" in text
