"""The versions' scripts as code: their ideas, their hashes, and how much of them changes."""

import ast
import difflib
import hashlib
import json
from pathlib import Path

from common.errors import UserError
from common.files import read_bytes, read_json
from results import store


def _parse(path):
    """(lines, syntax tree) of a Python file. Raises UserError where it can't be read as one."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8")
        return text.splitlines(), ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} can't be read as Python: {error}") from None


def _docstrings(tree):
    """The statements of a tree that are docstrings, with what they stand in."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node):
            yield node, node.body[0]


def idea(version):
    """The first line of a version's docstring."""
    return (ast.get_docstring(_parse(store.script_of(version))[1]) or version).splitlines()[0]


def code_sha256(path):
    """The hash of a script's code: the same whatever its comments, docstrings and imports say.

    It includes the code of a version that the script imports, as ablations do. Code that
    `python -m results.same` found to train as older code does has the hash of that. Raises
    UserError.
    """
    _, tree = _parse(path)
    for node, docstring in list(_docstrings(tree)):
        node.body.remove(docstring)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = [alias.name for node in imports for alias in node.names]
    parts = [code_sha256(_imported(name, path)) for name in names if name in store.versions()]
    for node in _without_imports(tree):
        values = [value for _, value in ast.iter_fields(node)]
        values = [repr(value) for value in values if not isinstance(value, (list, ast.AST))]
        parts.append([type(node).__name__, *values])
    found = hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()
    known = same_code()
    for _ in known:  # one change after another
        found = known.get(found, found)
    return found


def _imported(name, script):
    """The version that a script imports: of the checkout where the script lies, or of this one."""
    files = [folder / f"{name}.py" for folder in Path(script).resolve().parents]
    return next((file for file in files if file.exists()), store.script_of(name))


def same_code():
    """{hash of code: that of older code which trains the same}, as `python -m results.same` wrote
    it."""
    path = store.ROOT / "results" / "same-code.json"
    return read_json(path, "what code trains the same", dict[str, str]) if path.exists() else {}


def _without_imports(node):
    """A node and all below it, but import lines and what belongs to them."""
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _without_imports(child)


def code_lines(path):
    """A script's lines of code: without docstrings, comments, blank lines and settings."""
    lines, tree = _parse(path)
    left_out = [docstring for _, docstring in _docstrings(tree)]
    left_out += [node for node in tree.body if getattr(node, "name", "") == "Config"]
    numbers = {n for node in left_out for n in range(_first(node), node.end_lineno + 1)}
    return [
        line
        for number, line in enumerate(lines, 1)
        if number not in numbers and line.strip() and not line.lstrip().startswith("#")
    ]


def _first(node):
    """The number of a statement's first line, its decorators included."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def code_diff(before, after):
    """The unified diff of two scripts' lines of code, as text; "" where they are the same."""
    lines = [code_lines(path) for path in (before, after)]
    diff = list(difflib.unified_diff(*lines, n=1, lineterm=""))[2:]
    return "\n".join("" if line.startswith("@@") else line for line in diff).strip("\n")


def diff_size(before, after):
    """Lines added and removed between two versions' scripts, as `+52 −30`."""
    texts = [_parse(store.script_of(version))[0] for version in (before, after)]
    codes = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    changes = [code[1:] for code in codes if code[0] != "equal"]
    added = sum(j_end - j for _, _, j, j_end in changes)
    removed = sum(i_end - i for i, i_end, _, _ in changes)
    return f"+{added} −{removed}"
