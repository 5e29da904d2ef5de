"""The lineage's budgets: short scripts, small steps, the same sections, plain words."""

import ast
import dataclasses
import difflib
import io
import re
import tokenize
import typing

from results import store

import pytest
from lineage import ROOT, STEPS, VERSIONS, load

LARGEST = {"v0": 110, "v1": 240, "v1_1": 240, "v2": 240, "v3": 240, "v4": 240}  # lines of code
LARGEST_STEP = {"v2": (90, 25), "v5": (110, 40)}  # lines added, removed; to every other (60, 25)
WORDS = "likeliest|bolder|anew|beside|stretch(es)?|whoever|judge[sd]?|asked|told|a step|a second"


def text_of(version):
    return (ROOT / f"{version}.py").read_text(encoding="utf-8")


def code(text):
    """[(number, line)] of the lines that hold code; comments, docstrings, blank lines are free."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", 0), str):
            docstrings |= {*range(node.lineno, node.end_lineno + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = tokenize.untokenize(token for token in tokens if token.type != tokenize.COMMENT)
    numbered = [(number, line.rstrip()) for number, line in enumerate(lines.splitlines(), 1)]
    return [(number, line) for number, line in numbered if line and number not in docstrings]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_script_is_short_narrow_and_of_the_same_sections(version):
    lines = code(text_of(version))
    budget = LARGEST.get(version, len(lines))  # later ones are bounded by their steps
    assert len(lines) <= budget, f"{version}.py:{lines[budget][0]}: {lines[budget][1]}"
    for number, line in enumerate(text_of(version).splitlines(), 1):
        assert len(line) <= 100, f"{version}.py:{number}: {line}"
    headers = re.findall(r"^# ---- (.*?) -+$", text_of(version), re.MULTILINE)
    assert headers == ["Batches", "Model", "Sampling", "Training", "Command line"]


@pytest.mark.parametrize(("name", "budget"), [("README.md", 250), ("bpe_tokenizer.py", 300)])
def test_what_a_learner_reads_first_is_short(name, budget):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= budget


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_step_is_a_small_diff_that_its_docstring_names(before, after):
    old, new = code(text_of(before)), code(text_of(after))
    rows = [line for _, line in old], [line for _, line in new]
    added, removed = [], []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, *rows, autojunk=False).get_opcodes():
        if kind != "equal":
            removed += [(before, *line) for line in old[i:j]]
            added += [(after, *line) for line in new[k:m]]
    for budget, lines in zip(LARGEST_STEP.get(after, (60, 25)), (added, removed), strict=True):
        assert len(lines) <= budget, f"{len(lines)} lines, budget {budget}: {lines[budget]}"
    assert f"`diff {before}.py {after}.py`" in ast.get_docstring(ast.parse(text_of(after)))


def defined(version):
    """The names of functions, classes and methods, and those of Config's fields, in order."""
    names = []
    for node in ast.parse(text_of(version)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(part, ast.FunctionDef | ast.AnnAssign):
                names.append(f"{node.name}.{getattr(part, 'name', None) or part.target.id}")
    return names


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_what_neighbours_share_keeps_its_order(before, after):
    old, new = defined(before), defined(after)
    shared = [name for name in old if name in new]
    assert shared == [name for name in new if name in old]
    assert {"Config.vocab_size", "LanguageModel.forward", "generate", "train", "main"} <= {*shared}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_setting_has_a_comment_and_more_than_one_value(version):
    body = text_of(version).split("class Config(RunConfig):\n")[1].split("\n\n")[0]
    for line in body.splitlines():
        assert re.fullmatch(r"    \w+: .+ = .+  # .{8,}", line), line
    for name, kind in typing.get_type_hints(load(version).Config).items():
        if typing.get_origin(kind) is typing.Literal:
            assert len(typing.get_args(kind)) > 1, name


def test_the_first_version_has_about_ten_settings_of_its_own():
    config = load(VERSIONS[0]).Config
    own = {f.name for f in dataclasses.fields(config)} - {*config.__base__.__dataclass_fields__}
    assert 8 <= len(own) <= 10


def test_scripts_and_common_speak_the_fields_language():
    """No line has a word that no paper uses, or uses in another sense."""
    paths = [ROOT / f"{version}.py" for version in VERSIONS] + sorted(ROOT.glob("common/**/*.py"))
    private = [
        f"{path.relative_to(ROOT)}:{i}: {line.strip()}"
        for path in paths
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"\b({WORDS})\b", line)
    ]
    assert private == []


def test_versions_stand_in_natural_order(elsewhere):
    for name in "v10 v2 v1_1 v0 v1_10 v1 v1_2 v2_dot very".split():
        (elsewhere / f"{name}.py").touch()
    assert store.versions() == "v0 v1 v1_1 v1_2 v1_10 v2 v10".split()
