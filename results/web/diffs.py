"""The difference between two scripts, by the sections that all of them have."""

import difflib

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

CONTEXT = 2  # unchanged lines shown around a change
SCREEN, WHOLE = 16, 28  # lines shown at once of a long section, and those that it has at least
FOLDED = ("Docstring", "Imports", "Settings")  # sections that a reader opens


def highlighted(text):
    """The lines of a Python file as HTML, coloured by pygments."""
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    html = highlight(text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n")
    return [Markup(line) for line in html.split("\n")]


def section_names(lines):
    """The section of each line of a script: those of FOLDED, then as their headers call them."""
    names, current, quotes = [], "Docstring", 0
    for line in lines:
        if quotes >= 2 and current == "Docstring":
            current = "Imports"
        if line.startswith("@dataclass") and current == "Imports":
            current = "Settings"
        if line.startswith("# ---- "):
            current = line.strip("# -")
        quotes += line.count('"""')
        names.append(current)
    return names


def diff_sections(before, after):
    """The unified diff of two scripts: [{"name", "folded", "added", "removed", "parts"}, ...].

    parts: ("same", lines), ("change", removed lines, added lines) and ("gap", how many unchanged
    lines are left out there); a line is (its number, HTML). Of a long section that is not folded
    they are those of the first screen; "rest" are then the others, of so many lines: "more".
    """
    a, b = before.rstrip("\n").split("\n"), after.rstrip("\n").split("\n")
    a_html, b_html, a_names, b_names = (
        *map(highlighted, (before, after)),
        *map(section_names, (a, b)),
    )
    sections, shown = [], 0  # shown: lines of `before` so far, or left out

    def section(name):
        if not sections or sections[-1]["name"] != name:
            sections.append({"name": name, "folded": name in FOLDED, "parts": []})
            sections[-1] |= {"added": 0, "removed": 0}
        return sections[-1]

    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT):
        gap, shown = group[0][1] - shown, group[-1][2]
        for kind, i, i_end, j, j_end in group:
            if kind != "equal":
                part = section(b_names[j] if j_end > j else a_names[i])
                old = [(n + 1, a_html[n]) for n in range(i, i_end)]
                new = [(n + 1, b_html[n]) for n in range(j, j_end)]
                part["parts"].append(("change", old, new))
                part["removed"] += len(old)
                part["added"] += len(new)
                continue
            for n in range(j, j_end):
                if b[n].startswith("# ---- "):  # the section's name says it
                    continue
                parts = section(b_names[n])["parts"]
                if gap and parts:
                    parts.append(("gap", gap))
                if gap or not parts or parts[-1][0] != "same":
                    parts.append(("same", []))
                parts[-1][1].append((n + 1, b_html[n]))
                gap = 0
    changed = [each for each in sections if each["added"] + each["removed"]]
    for each in changed:
        drop_empty_edges(each["parts"])
        first, rest, more = first_screen(each["parts"])
        if SCREEN + more > WHOLE and not each["folded"]:
            each |= {"parts": first, "rest": rest, "more": more}
    return changed


def first_screen(parts):
    """The parts of the first SCREEN lines, those of the others, and how many lines these are."""
    first, rest, room = [], [], SCREEN
    for kind, *sides in parts:
        if kind == "gap":
            (first if room > 0 else rest).append((kind, *sides))
            continue
        now, later = [], []
        for lines in sides:
            now.append(lines[: max(room, 0)])
            later.append(lines[max(room, 0) :])
            room -= len(lines)
        first += [(kind, *now)] * any(now)
        rest += [(kind, *later)] * any(later)
    return first, rest, max(-room, 0)


def drop_empty_edges(parts):
    """Take away the empty unchanged lines that a section begins and ends with."""
    for edge in (0, -1):
        while parts[edge][0] == "same" and not parts[edge][1][edge][1].strip():
            parts[edge][1].pop(edge)
            if not parts[edge][1]:
                parts.pop(edge)
