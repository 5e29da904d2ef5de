"""The lineage as one HTML page that needs no network: python -m results page

The versions' ideas, diffs and samples; their numbers and curves from results/; and pictures of the
runs that lie in runs/.
"""

import ast
import base64
import contextlib
import difflib
import io
import re
import sys
import tempfile
from pathlib import Path

from common.errors import UserError
from common.files import atomic_write
from results.attention import attention
from results.drawing import colour, style
from results.embeddings import embeddings
from results.intervals import bits_by_seed, mean_and_deviation, spread
from results.plots import curves_figure, published_points
from results.readme import table
from results.scripts import diff_size
from results.store import ROOT, entropy, load_results, read_result, script_of, versions
from results.tables import change

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

CORPORA = {"sample": "the sample", "wikitext-2": "WikiText-2"}
CONTEXT = 3  # unchanged lines shown around a change
# The tables at the end: the title, and the name that results/readme.py has for it.
TABLES = {
    "Results on the sample": "lineage-sample",
    "Results on WikiText-2": "lineage-wikitext-2",
    "Kinds of position": "position",
    "Beyond the training context": "context",
    "Sizes of the vocabulary": "vocabulary",
    "Questions with known answers": "probes",
    "Are the stories true to themselves?": "claims",
}
PICTURES = {
    "attention": "The attention weights of {version}, last layer, a map for each head: rows are the"
    " queries, columns the keys; the darker, the larger the weight.",
    "embeddings": "The token embeddings of {version} on the plane of their two principal"
    " components; words of one kind have one colour.",
}


# ---- Markdown and code as HTML -------------------------------------------------------------------


def inline(text):
    """Markdown's `code`, **bold** and [links](https://…) in a line as HTML; the rest is escaped."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return Markup(re.sub(r"\[([^\]]+)\]\((https://[^)\s]+)\)", r'<a href="\2">\1</a>', text))


def blocks(text):
    """A Markdown table and the paragraphs around it: [{"head", "rows"} or {"text"}, ...]."""
    found = []
    for block in text.strip().split("\n\n"):
        if not block.startswith("|"):
            found.append({"text": inline(" ".join(block.split()))})
            continue
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        cells = [[inline(cell.strip().replace("\\|", "|")) for cell in line] for line in lines]
        found.append({"head": cells[0], "rows": cells[2:]})
    return found


def highlighted(text):
    """The lines of a Python file as HTML, coloured by pygments."""
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    return [Markup(line) for line in highlight(text, lexer, HtmlFormatter(nowrap=True)).split("\n")]


def diff_lines(before, after):
    """The unified diff of two Python files: [(kind, old number, new number, HTML), ...].

    kind: old, new or same; gap, whose HTML is how many unchanged lines are left out there.
    """
    a, b = before.rstrip("\n").split("\n"), after.rstrip("\n").split("\n")
    a_html, b_html = highlighted(before), highlighted(after)
    rows, shown = [], 0  # shown: lines of `before` so far, or left out
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT):
        rows += [("gap", "", "", group[0][1] - shown)] * (group[0][1] > shown)
        shown = group[-1][2]
        for kind, i, i_end, j, j_end in group:
            if kind == "equal":
                rows += [("same", n + 1, n + 1 + j - i, a_html[n]) for n in range(i, i_end)]
            else:
                rows += [("old", n + 1, "", a_html[n]) for n in range(i, i_end)]
                rows += [("new", "", n + 1, b_html[n]) for n in range(j, j_end)]
    return rows + [("gap", "", "", len(a) - shown)] * (0 < shown < len(a))


# ---- Versions ------------------------------------------------------------------------------------


def docstring(text, version):
    """(idea, paragraphs) of a script's docstring: the first line without the name, the rest."""
    first, *rest = (ast.get_docstring(ast.parse(text)) or version).split("\n\n")
    paragraphs = [inline(" ".join(paragraph.split())) for paragraph in rest]
    return first.removeprefix(f"{version}: ").rstrip("."), paragraphs


def steps(pictures):
    """What the page says of each version: a list of dictionaries, in the versions' order.

    pictures: as `draw_pictures` returns them.
    """
    found, before, text_before = [], None, None
    for version in versions():
        text = script_of(version).read_text(encoding="utf-8")
        idea, paragraphs = docstring(text, version)
        step = {"version": version, "before": before, "idea": idea, "paragraphs": paragraphs}
        step |= {"colour": colour(version), "pictures": pictures.get(version, [])}
        step["numbers"] = {}
        for corpus, where in CORPORA.items():
            if runs := load_results(f"{version}-{corpus}"):
                delta = before and change(f"{before}-{corpus}", runs)
                step["numbers"][where] = {"bits": spread(runs), "delta": inline(delta or "")}
                if corpus == "sample":
                    step["mean"] = mean_and_deviation(list(bits_by_seed(runs).values()))[0]
        if before:
            step["size"], step["diff"] = diff_size(before, version), diff_lines(text_before, text)
        step["samples"] = [s for v in (before, version) if v and (s := sample(v))]
        found.append(step)
        before, text_before = version, text
    return found


def sample(version):
    """The text that the first seed of a version wrote, or None."""
    runs = load_results(f"{version}-sample")
    first = runs[min(runs)] if runs else None
    return first and {"version": version, "seed": first.seed, "text": first.sample.strip()}


def chart(corpus):
    """The versions' loss curves on a corpus: {"svg", "curves": {version: colour}}; None without.

    What belongs to a version has ids in the SVG that begin with CORPUS-VERSION-, so that it can be
    switched off.
    """
    found = {version: published_points(f"{version}-{corpus}") for version in versions()}
    lines = {version: (version, *each[2:]) for version, each in found.items() if each}
    if not lines:
        return None
    out = io.StringIO()
    with style():
        figure = curves_figure(lines, "tokens", entropy() if corpus == "sample" else None)
        (axes,) = figure.axes
        bands = iter(axes.collections)
        for line, (version, (_, runs, _)) in zip(axes.lines, lines.items(), strict=False):
            line.set_gid(f"{version}-line")
            if len(runs) > 1:
                next(bands).set_gid(f"{version}-band")
            for text in axes.texts:
                if text.get_text().startswith(f"{line.get_label()}: "):
                    text.set_gid(f"{version}-label")
                    text.arrow_patch.set_gid(f"{version}-arrow")
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=about)
    svg = out.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{corpus}-", svg[svg.index("<svg") :])
    return {"svg": Markup(svg), "curves": {version: colour(version) for version in lines}}


def run_to_draw(version):
    """The folder of a run on the sample to draw: the published one, else the reader's own."""
    for name in (f"published/{version}-sample-seed1", version):
        folder = ROOT / "runs" / name
        if (folder / "result.json").exists():
            result = read_result(folder / "result.json")
            if (result.version, result.data.name) == (version, "sample"):
                return folder
    raise UserError(f"no run on the sample in runs/{version}")


def draw_pictures():
    """{version: [(data URL, alternative text, blocks), ...]} of the runs that are here.

    What a version can't show, as v0 has no attention, is left out. blocks: the table of nearest
    neighbours, as `blocks` returns one, or None.
    """
    drawn = {}
    for version in versions():
        for kind, about in PICTURES.items():
            quiet = contextlib.redirect_stdout(io.StringIO())
            with tempfile.TemporaryDirectory() as scratch, quiet:
                path = Path(scratch) / f"{kind}.png"
                try:
                    folder = str(run_to_draw(version))
                    if kind == "attention":
                        near = attention(folder, slide=True, out=str(path))
                    else:
                        near = embeddings(folder, out=str(path))
                except UserError as error:
                    print(f"no {kind} of {version}: {error}", file=sys.stderr)
                    continue
                url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
            near = near and {"head": near[0], "rows": near[1]}
            drawn.setdefault(version, []).append((url, about.format(version=version), near))
    return drawn


# ---- The page ------------------------------------------------------------------------------------


def render(pictures=None):
    """The whole page as text. pictures: as `draw_pictures` returns them."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found = steps(pictures or {})
    return environment.get_template("page.html.jinja").render(
        steps=found,
        most=max((step["mean"] for step in found if "mean" in step), default=1),
        entropy=entropy(),
        charts={CORPORA[corpus]: (corpus, chart(corpus)) for corpus in CORPORA},
        tables={title: blocks(table(name)) for title, name in TABLES.items()},
    )


def page(out: str = "page.html", pictures: bool = True):
    """Write the lineage as one HTML file.

    Args:
        out: the file
        pictures: attention and embeddings of the runs in runs/, a few seconds each
    """
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page's name ends in .html")
    text = render(draw_pictures() if pictures else {})
    with atomic_write(out, "w") as file:
        file.write(text)
    print(f"{out}: {len(text.encode('utf-8')) / 1e6:.1f} MB")
