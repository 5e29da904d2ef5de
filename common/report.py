"""The lineage as one page to read: python -m common.report

One HTML file that needs no network: the versions' ideas, diffs, numbers and samples from results/,
and the curves, answers and pictures of the published runs that lie in runs/published/.
"""

import ast
import base64
import contextlib
import difflib
import io
import re
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from common import results
from common.cli import run_command, run_main
from common.errors import UserError
from common.files import atomic_write, read_json
from common.plots import LOOKS, curves_figure, read_metrics
from common.results import delta, diff_size, lineage_rows, load_results, read_result, spread

CORPORA = {"sample": "the sample", "wikitext-2": "WikiText-2"}
CONTEXT = 3  # unchanged lines shown around a change
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
    lines differ. n, old: number and `marked` line of `before`, m, new: of `after`; None without.
    """
    a, b = before.splitlines(), after.splitlines()
    rows, shown = [], 0  # shown: lines of `before` so far, or left out
    matcher = difflib.SequenceMatcher(None, a, b)  # as diff_size has it
    for group in matcher.get_grouped_opcodes(CONTEXT):
        rows += [{"skipped": group[0][1] - shown}] * (group[0][1] > shown)
        shown = group[-1][2]
        for kind, i, i_end, j, j_end in group:
            for n, m in zip_longest(range(i, i_end), range(j, j_end)):
                old, new = None if n is None else a[n], None if m is None else b[m]
                rows.append({
                    "changed": kind != "equal",
                    "n": None if n is None else n + 1, "old": marked(old, new),
                    "m": None if m is None else m + 1, "new": marked(new, old),
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


def _ink(text):
    """How many characters are no white space."""
    return len("".join(text.split()))


def steps(pictures):
    """What the page says of each version: a list of dictionaries, in the versions' order."""
    found, before = [], None
    for version in results.ORDER:
        idea, paragraphs = docstring(version)
        step = {"version": version, "idea": idea, "paragraphs": paragraphs, "before": before}
        step["numbers"] = [number for corpus in CORPORA if (number := _number(version, corpus))]
        if before:
            texts = [(results.ROOT / f"{v}.py").read_text(encoding="utf-8")
                     for v in (before, version)]  # fmt: skip
            step |= {"size": diff_size(before, version), "diff": diff_rows(*texts)}
        step["samples"] = [sample for v in (before, version) if v and (sample := _sample(v))]
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


def _sample(version, corpus="sample"):
    runs = load_results(f"{version}-{corpus}")
    if not runs:
        return None
    result = runs[min(runs)]
    return {"version": version, "seed": result["seed"], "text": result["sample"].strip()}


# ---- Runs, where they are present ----------------------------------------------------------------


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


def chart(corpus):
    """The loss curves of the versions whose runs are here: (SVG, labels), or None without any.

    Each curve's parts have ids that begin with CORPUS-VERSION-, so that it can be switched off.
    """
    lines = {}
    for version in results.ORDER:
        metrics = []
        for folder in folders(version, corpus).values():
            with contextlib.suppress(UserError):
                metrics.append(read_metrics(folder))
        if metrics:
            lines[version] = metrics
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
    colours = [LOOKS[number % len(LOOKS)][0] for number in range(len(lines))]
    return {"svg": _svg(figure, corpus), "curves": list(zip(lines, colours))}


def _svg(figure, prefix):
    """A figure as an <svg> element to stand in a page: no prologue, ids of its own by a prefix."""
    import matplotlib

    about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lineage"}):
        figure.savefig(out, format="svg", metadata=about)
    text = out.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text[text.index("<svg") :])


def draw_pictures():
    """{version: [(data URL, alternative text), ...]} of the runs on the sample that are here.

    The first seed of each version, opened and drawn as `python -m common.plots` does; what a
    version can't show (v0 has no attention) is left out, and what would make the page too large.
    """
    from common import inside
    from common.saved import read_settings

    drawn, room = {}, PICTURES_MOST
    for version in results.ORDER:
        here = folders(version, "sample")
        folder = here.get(min(here, default=None))
        if folder is None or not (folder / "best.pt").exists():
            continue
        layers = read_settings(folder)[1].get("n_layer", 1)
        draw = {"attention": lambda run, out, n=layers: inside.attention(run, layer=n, out=out),
                "embeddings": lambda run, out: inside.embeddings(run, out=out)}  # fmt: skip
        for kind, alt in PICTURES.items():
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{kind}.png"
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        draw[kind](str(folder), str(path))
                except UserError as error:
                    print(f"no picture of {kind}: {error}", file=sys.stderr)
                    continue
                data = base64.b64encode(path.read_bytes()).decode("ascii")
            if len(data) > room:
                print(f"no picture of {kind} of {version}: no room is left", file=sys.stderr)
                continue
            room -= len(data)
            url = f"data:image/png;base64,{data}"
            drawn.setdefault(version, []).append((url, alt.format(version=version)))
    return drawn


def probes():
    """The probes' table, (head, rows) as text, of the versions whose runs have been asked; or None.

    Only runs that were asked the same questions stand in one table: those of the first version.
    """
    asked = {}
    for version in results.ORDER:
        for folder in folders(version, "sample").values():
            if (folder / "probes.json").exists():
                found = read_json(folder / "probes.json", "the answers of common.probes")
                if not isinstance(found.get("kinds"), dict):
                    raise UserError(f"{folder / 'probes.json'} is damaged: ask again")
                asked[version] = found
                break
    if not asked:
        return None
    first = next(iter(asked.values()))["questions_sha256"]
    asked = {v: found["kinds"] for v, found in asked.items() if found["questions_sha256"] == first}
    rows = []
    for kind, about in next(iter(asked.values())).items():
        cells = [kinds[kind] for kinds in asked.values()]
        shares = [[f"{100 * c[key]:.0f}" for key in ("accuracy", "low", "high")] for c in cells]
        row = [f"{share} % [{low}, {high}]" for share, low, high in shares]
        rows.append([kind, str(about["n"]), f"{100 * about['chance']:.0f} %", *row])
    return ["question", "asked", "chance", *asked], rows


# ---- The page ------------------------------------------------------------------------------------


def page(pictures=None):
    """The whole page as text. pictures: as `draw_pictures` returns them."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent
    settings = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    template = Environment(loader=FileSystemLoader(folder), **settings).get_template("report.html")
    tables = {}
    for corpus, where in CORPORA.items():
        head, rows = lineage_rows(corpus)
        if rows:
            tables[where] = (head, [[cell.strip("`") for cell in row] for row in rows])
    found = steps(pictures or {})
    numbers = [number for step in found for number in step["numbers"]]
    means = [number["mean"] for number in numbers if number["corpus"] == "sample"]
    charts = {CORPORA[corpus]: (corpus, chart(corpus)) for corpus in CORPORA}
    return template.render(
        steps=found,
        most=max(means, default=1),
        tables=tables,
        charts=charts,
        probes=probes(),
        command="python -m common.results publish",
    )


def report(out: str = "report.html", pictures: bool = True):
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
