"""The lineage as one page to read: python -m results.page

One HTML file that needs no network: the versions' ideas and diffs; their numbers, curves, answers
and samples from results/; and pictures of what is inside the runs that lie in runs/published/.
"""

import ast
import base64
import contextlib
import difflib
import io
import re
import sys
import tempfile
from itertools import groupby, zip_longest
from pathlib import Path

from results import tables as results
from common.cli import run_command, run_main
from common.errors import UserError
from common.files import atomic_write
from results.plots import LOOKS, curves_figure
from results.tables import claims_rows, delta, diagnostic_rows, diff_size, lineage_rows
from results.tables import load_results, probe_rows, read_result, spread

CORPORA = {"sample": "the sample", "wikitext-2": "WikiText-2"}
CONTEXT = 3  # unchanged lines shown around a change
LOOKS_OF_CODE = {"Comment": "c", "Literal.String": "s", "Literal.Number": "n", "Keyword": "k",
                 "Operator.Word": "k", "Name.Function": "f", "Name.Class": "f",
                 "Name.Decorator": "f", "Name.Builtin": "b"}  # fmt: skip
PICTURES_MOST = 2_200_000  # characters of all pictures together; the page stays below 3 MB
PICTURES = {
    "attention": "Where the attention heads of {version} look: for each head a map, rows are the"
    " tokens that look, columns those that are looked at, the darker the more.",
    "embeddings": "The token embeddings of {version} on the plane of their two principal"
    " components; words of one kind have one colour.",
}


# ---- Steps ---------------------------------------------------------------------------------------


def docstring(version):
    """(idea, paragraphs) of a version's docstring: the first line without the name, the rest."""
    text = (results.ROOT / f"{version}.py").read_text(encoding="utf-8")
    first, *rest = (ast.get_docstring(ast.parse(text)) or version).split("\n\n")
    idea = first.removeprefix(f"{version}: ").rstrip(".")
    return idea, [" ".join(part.split()) for part in rest]


def diff_rows(before, after):
    """Two texts side by side, CONTEXT unchanged lines around each change: a list of dictionaries.

    skipped: so many unchanged lines are left out here; no other key then. changed: whether the
    lines differ. n, old: number and line of `before` as `coloured` has it, m, new: of `after`; None
    without.
    """
    a, b = before.splitlines(), after.splitlines()
    a_looks, b_looks = looks_of_code(before), looks_of_code(after)
    rows, shown = [], 0  # shown: lines of `before` so far, or left out
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)  # as diff_size has it
    for group in matcher.get_grouped_opcodes(CONTEXT):
        rows += [{"skipped": group[0][1] - shown}] * (group[0][1] > shown)
        shown = group[-1][2]
        for kind, i, i_end, j, j_end in group:
            for n, m in zip_longest(range(i, i_end), range(j, j_end)):
                old, new = None if n is None else a[n], None if m is None else b[m]
                rows.append({
                    "changed": kind != "equal",
                    "n": None if n is None else n + 1,
                    "old": None if n is None else coloured(marked(old, new), a_looks[n]),
                    "m": None if m is None else m + 1,
                    "new": None if m is None else coloured(marked(new, old), b_looks[m]),
                })  # fmt: skip
    return rows + [{"skipped": len(a) - shown}] * (0 < shown < len(a))


def marked(line, other):
    """A line as [(text, whether the other side's line has it not), ...], cut between words.

    One piece, marked nowhere, where there is no other line or hardly anything in common with it.
    """
    if line is None:
        return None
    words, others = (re.findall(r"\w+|\s+|.", text or "") for text in (line, other))
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    common = "".join("".join(words[i : i + n]) for i, _, n in matcher.get_matching_blocks())
    if 2 * _ink(common) < max(_ink(line), _ink(other or "")):
        return [(line, False)]
    return [("".join(words[i:j]), kind != "equal")
            for kind, i, j, *_ in matcher.get_opcodes() if j > i]  # fmt: skip


def looks_of_code(text):
    """Each line of a Python file as a list: for each of its characters, what it is to the reader.

    A value of LOOKS_OF_CODE, or "". The file is read as a whole: a docstring has many lines.
    """
    from pygments.lexers import PythonLexer
    from pygments.token import Token, string_to_tokentype

    looks = {string_to_tokentype(name): look for name, look in LOOKS_OF_CODE.items()}
    of_each = []
    for _, kind, piece in PythonLexer().get_tokens_unprocessed(text):
        while kind not in looks and kind is not Token:
            kind = kind.parent
        of_each += [looks.get(kind, "")] * len(piece)
    lines, at = [], 0
    for line in text.splitlines(keepends=True):
        lines.append(of_each[at : at + len(line)])
        at += len(line)
    return lines


def coloured(pieces, looks):
    """A `marked` line, cut further where the look changes: [(text, differs, look), ...]."""
    differs = [differs for text, differs in pieces for _ in text]
    letters = zip("".join(text for text, _ in pieces), differs, looks)
    groups = groupby(letters, key=lambda letter: letter[1:])
    return [("".join(letter for letter, *_ in group), *key) for key, group in groups]


def _ink(text):
    """How many characters are no white space."""
    return len("".join(text.split()))


def steps(pictures, asked):
    """What the page says of each version: a list of dictionaries, in the versions' order.

    pictures: as `draw_pictures` returns them. asked: the table that `probe_rows` returns, or None.
    """
    found, before = [], None
    for version in results.ORDER:
        idea, paragraphs = docstring(version)
        step = {"version": version, "idea": idea, "paragraphs": paragraphs, "before": before}
        step["numbers"] = [number for corpus in CORPORA if (number := _number(version, corpus))]
        means = [number["mean"] for number in step["numbers"] if number["corpus"] == "sample"]
        step["mean"] = means[0] if means else None
        if before:
            texts = [(results.ROOT / f"{v}.py").read_text(encoding="utf-8")
                     for v in (before, version)]  # fmt: skip
            step |= {"size": diff_size(before, version), "diff": diff_rows(*texts)}
        step["samples"] = [sample for v in (before, version) if v and (sample := _sample(v))]
        step["answers"] = asked and columns(*asked, [before, version])
        step["pictures"] = pictures.get(version, [])
        found.append(step)
        before = version
    return found


def _number(version, corpus):
    """A version's bits per byte on a corpus, as text, and Δ to the version before."""
    runs = load_results(f"{version}-{corpus}")
    if not runs:
        return None
    at = results.ORDER.index(version)
    before = load_results(f"{results.ORDER[at - 1]}-{corpus}") if at else {}
    bits = results.mean_and_deviation(list(results.bits_by_seed(runs).values()))[0]
    return {"corpus": corpus, "where": CORPORA[corpus], "mean": bits, "bits": spread(runs),
            "delta": delta(before, runs)}  # fmt: skip


def columns(head, rows, versions):
    """The probes' table with these versions' columns alone; None where the last has none."""
    names = [cell.partition(" ")[0] for cell in head]
    if versions[-1] not in names:
        return None
    keep = [at for at, name in enumerate(names) if name in ("question", "chance", *versions)]
    head, *rows = [[row[at] for at in keep] for row in (head, *rows)]
    return head, rows


def _sample(version, corpus="sample"):
    runs = load_results(f"{version}-{corpus}")
    if not runs:
        return None
    result = runs[min(runs)]
    return {"version": version, "seed": result["seed"], "text": result["sample"].strip()}


# ---- Curves --------------------------------------------------------------------------------------


def chart(corpus):
    """The versions' loss curves on a corpus: {"svg", "curves"}, or None without any.

    curves: (version, colour) of each. Its parts in the SVG have ids that begin with
    CORPUS-VERSION-, so that it can be switched off.
    """
    lines = {}
    for version in results.ORDER:
        runs = load_results(f"{version}-{corpus}").values()
        if curves := [result["curve"] for result in runs if "curve" in result]:
            lines[version] = curves
    if not lines:
        return None
    figure = curves_figure(lines, "tokens", results.floor() if corpus == "sample" else None)
    (axes,) = figure.axes
    bands = iter(axes.collections)
    for line, (version, runs) in zip(axes.lines, lines.items()):
        line.set_gid(f"{version}-line")
        if len(runs) > 1:
            next(bands).set_gid(f"{version}-band")
        for text in axes.texts:
            if text.get_text().startswith(f"{line.get_label()}: "):
                text.set_gid(f"{version}-label")
                text.arrow_patch.set_gid(f"{version}-arrow")
    return {"svg": _svg(figure, corpus), "curves": list(zip(lines, (look[0] for look in LOOKS)))}


def _svg(figure, prefix):
    """A figure as an <svg> element to stand in a page: no prologue, ids of its own by a prefix."""
    import matplotlib

    about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lineage"}):
        figure.savefig(out, format="svg", metadata=about)
    text = out.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text[text.index("<svg") :])


# ---- Pictures of runs that are present -----------------------------------------------------------


def folders(version, corpus):
    """{seed: folder} of a version's published runs whose folders are here and hold that result."""
    name, found = f"{version}-{corpus}", {}
    for seed, result in load_results(name).items():
        folder = results.ROOT / "runs" / "published" / f"{name}-seed{seed}"
        if (folder / "result.json").exists():
            here = read_result(folder / "result.json")
            if here["val_bits_per_byte"] == result["val_bits_per_byte"]:
                found[seed] = folder
    return found


def pictured(version):
    """The folder of a run on the sample to draw: a published one's, else the reader's own."""
    here = folders(version, "sample")
    own = results.ROOT / "runs" / version
    for folder in [here[seed] for seed in sorted(here)] + [own]:
        if (folder / "best.pt").exists() and (folder / "result.json").exists():
            if read_result(folder / "result.json")["data"].get("name") == "sample":
                return folder
    return None


def draw_pictures():
    """{version: [(data URL, alternative text, table or None), ...]} of runs that are here.

    A run of each version, opened and drawn as `python -m results.plots` does; what a version can't
    show (v0 has no attention) is left out, and what would make the page too large. The table is
    that of nearest neighbours: (head, rows).
    """
    from common import inside
    from results.saved import read_settings

    drawn, room = {}, PICTURES_MOST
    for version in results.ORDER:
        try:
            folder = pictured(version)
            layers = folder and read_settings(folder)[1].get("n_layer", 1)
        except UserError as error:
            print(f"no pictures of {version}: {error}", file=sys.stderr)
            continue
        if folder is None:
            where = f"runs/published/{version}-sample-seed1 or runs/{version}"
            print(f"no pictures of {version}: no run in {where}", file=sys.stderr)
            continue
        draw = {"attention": lambda run, out, n=layers: inside.attention(run, layer=n, out=out),
                "embeddings": lambda run, out: inside.embeddings(run, out=out)}  # fmt: skip
        for kind, alt in PICTURES.items():
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{kind}.png"
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        near = draw[kind](str(folder), str(path))
                except UserError as error:
                    print(f"no picture of {kind}: {error}", file=sys.stderr)
                    continue
                data = base64.b64encode(path.read_bytes()).decode("ascii")
            if len(data) > room:
                print(f"no picture of {kind} of {version}: no room is left", file=sys.stderr)
                continue
            room -= len(data)
            url = f"data:image/png;base64,{data}"
            drawn.setdefault(version, []).append((url, alt.format(version=version), near))
    return drawn


# ---- The page ------------------------------------------------------------------------------------


def page(pictures=None):
    """The whole page as text. pictures: as `draw_pictures` returns them."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    settings = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    template = Environment(loader=FileSystemLoader(folder), **settings).get_template("page.html.jinja")
    tables = {}
    for corpus, where in CORPORA.items():
        head, rows = lineage_rows(corpus)
        if rows:
            rows = [[cell.strip("`") for cell in row] for row in rows]
            tables[where] = (head, rows, results.machines(corpus))
    asked = probe_rows()
    found = steps(pictures or {}, asked)
    means = [step["mean"] for step in found if step["mean"]]
    charts = {CORPORA[corpus]: (corpus, chart(corpus)) for corpus in CORPORA}
    return template.render(
        steps=found,
        most=max(means, default=1),
        tables=tables,
        charts=charts,
        floor=results.floor(),
        probes=asked,
        claims=claims_rows(),
        diagnostics=diagnostic_rows(),
        command="python -m results.tables publish",
    )


def report(out: str = "page.html", pictures: bool = True):
    """Write the lineage as one HTML file.

    Args:
        out: the file
        pictures: attention and embeddings of the published runs that lie here, a few seconds each
    """
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page's name ends in .html")
    text = page(draw_pictures() if pictures else {})
    with atomic_write(out, "w") as file:
        file.write(text)
    print(f"{out}: {len(text.encode('utf-8')) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(lambda: run_command(report, __doc__))
