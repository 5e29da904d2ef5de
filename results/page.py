"""The lineage as one HTML page to learn from, in which the models run: python -m results page

A chapter for each version, what it gained, curves and tables, and the published models themselves,
all in one file that needs no network. It is made of what lies in results/ and in the README.
"""

import ast
import json
import re
from pathlib import Path

from common.errors import UserError
from common.files import atomic_write
from results.drawing import colour
from results.intervals import bits_by_seed, difference, mean, spread
from results.readme import table
from results.scripts import diff_size
from results.store import ROOT, entropy, load_results, script_of, versions
from results.variants import first_text
from results.web.chart import curves
from results.web.diffs import diff_sections, highlighted
from results.web.weights import models

import msgspec
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

WEB = Path(__file__).parent / "web"
CORPORA = {"sample": "the sample", "wikitext-2": "WikiText-2"}
LONG = 500  # characters: of a longer story only the first sentences are shown at once
FIRST = r"(?s).{,400}[.?!]\"?\s|.{,400}"
# The tables at the end: the title, and the name that results/readme.py has for it.
TABLES = {
    "Results on the sample": "lineage-sample",
    "Results on WikiText-2": "lineage-wikitext-2",
    "Attention taken apart": "attention",
    "Dropout": "dropout",
    "Kinds of position": "position",
    "Kinds of position on WikiText-2": "position-wikitext-2",
    "Beyond the training context": "context",
    "Today's recipe, part by part": "recipe",
    "Today's recipe on WikiText-2": "recipe-wikitext-2",
    "Memory by lookup on WikiText-2": "memory",
    "Sizes of the vocabulary": "vocabulary",
    "Questions with known answers": "probes",
    "Are the stories true to themselves?": "claims",
}


class Chapter(msgspec.Struct, forbid_unknown_fields=True):
    """What chapters.toml says of a version."""

    idea: str  # a few sentences
    drawing: str = ""  # what the drawing in vN.svg shows, for those who do not see it
    attempt: str = ""  # what to do with the models that run in the page
    versions: tuple[str, str] | None = None  # the two that do it
    prompt: str = ""


# ---- Markdown as HTML ----------------------------------------------------------------------------


def inline(text):
    """Markdown's `code`, **bold** and [links](https://…) in a line as HTML; the rest is escaped.

    A link to a file of the project becomes its text alone.
    """
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"\[([^\]]+)\]\((https://[^)\s]+)\)", r'<a href="\2">\1</a>', text)
    return Markup(re.sub(r"\[([^\]]+)\]\([^):\s]+\)", r"\1", text))


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


# ---- Chapters ------------------------------------------------------------------------------------


def docstring(text, version):
    """(idea, paragraphs) of a script's docstring: the first line without the name, the rest."""
    first, *rest = (ast.get_docstring(ast.parse(text)) or version).split("\n\n")
    return first.removeprefix(f"{version}: ").rstrip("."), [" ".join(each.split()) for each in rest]


def exercises():
    """{version: (question, [paragraphs of the answer])}: the README's questions to take along."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pattern = r"<details><summary>(v[\d_]+): (.*?)</summary>\s*(.*?)\s*</details>"
    found = re.findall(pattern, text, re.DOTALL)
    return {
        version: (inline(question[0].upper() + question[1:]), blocks(answer))
        for version, question, answer in found
    }


def chapters():
    """What the page says of each version: a list of dictionaries, in the versions' order."""
    written = (WEB / "chapters.toml").read_text(encoding="utf-8")
    written = msgspec.toml.decode(written, type=dict[str, Chapter])
    questions, found, before, text_before = exercises(), [], None, None
    for version in versions():
        text = script_of(version).read_text(encoding="utf-8")
        idea, paragraphs = docstring(text, version)
        prose, drawing = written.get(version, Chapter("")), WEB / f"{version}.svg"
        step = {"version": version, "before": before, "idea": idea, "colour": colour(version)}
        step |= {"paragraphs": [*map(inline, [prose.idea] if prose.idea else paragraphs)]}
        step |= {"prose": prose, "exercise": questions.get(version), "corpora": {}}
        if prose.drawing and drawing.exists():
            step["drawing"] = Markup(drawing.read_text(encoding="utf-8"))
        for corpus, where in CORPORA.items():
            if runs := load_results(f"{version}-{corpus}"):
                earlier = load_results(f"{before}-{corpus}") if before else {}
                gained = gain(earlier, runs, before)
                bits = re.sub(r"\((\d+)\)", rf"(\1 seed{'s' * (len(runs) > 1)})", spread(runs))
                step["corpora"][where] = {"bits": bits, "gain": gained}
                if corpus == "sample":
                    step["mean"] = mean(runs, "val_bits_per_byte")
        if before:
            step["size"] = diff_size(before, version)
            step["diff"] = diff_sections(text_before, text)
        else:
            step["script"] = [*enumerate(highlighted(text.rstrip("\n")), 1)]
        step["samples"] = samples(before, version)
        found.append(step)
        before, text_before = version, text
    return found


def gain(before, after, name):
    """By how much {seed: Result} is better than that of the version `name`, as part of a sentence.

    "" where fewer than three seeds are the same, so that nothing is claimed.
    """
    found = difference(bits_by_seed(before), bits_by_seed(after))
    if found is None:
        return ""
    if found[1] <= 0 <= found[2]:
        if max(map(abs, found)) < 0.0005:
            return f"no difference from {name}: the 95 % interval lies within ±0.0005"
        low, high = (f"{end:+.3f}".replace("-", "−") for end in found[1:])
        return f"no difference from {name} that the seeds can show: 95 % interval {low} to {high}"
    less, more = sorted(map(abs, found[1:]))
    kind = "fewer" if found[0] < 0 else "more"
    return f"{abs(found[0]):.3f} {kind} than {name}, 95 % interval {less:.3f} to {more:.3f}"


def samples(*names):
    """The first stories that the first seeds of the versions wrote, for those that have one.

    Of each its first sentences and the rest; one that two versions write stands there once.
    """
    found = {}
    for version in filter(None, names):
        if runs := load_results(f"{version}-sample"):
            found.setdefault(first_text(runs[min(runs)]), []).append(version)
    stories = []
    for text, written_by in found.items():
        says = " and ".join(written_by) + ", the same story" * (len(written_by) > 1)
        end = re.match(FIRST, text).end() if len(text) > LONG else len(text)
        story = {"says": says, "colour": colour(written_by[-1])}
        stories.append(story | {"first": text[:end].rstrip(), "rest": text[end:]})
    return stories


# ---- The page ------------------------------------------------------------------------------------


def embedded(value):
    """A value as JSON inside a script element, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c"))


def source(name):
    """A file of results/web/, to stand in a style or script element."""
    return Markup((WEB / name).read_text(encoding="utf-8"))


def render():
    """The whole page as text. The same files are the same text, on every machine."""
    loader = FileSystemLoader(WEB)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found, playable = chapters(), models()
    return environment.get_template("page.html.jinja").render(
        steps=found,
        most=max((step["mean"] for step in found if "mean" in step), default=1),
        entropy=entropy(),
        models=playable["models"],
        embedded=embedded(playable),
        charts={where: (corpus, curves(corpus)) for corpus, where in CORPORA.items()},
        tables={title: blocks(table(name)) for title, name in TABLES.items()},
        source=source,
    )


def page(out: str = "results/page.html"):
    """Write the lineage as one HTML file, with the published models inside.

    Args:
        out: the file
    """
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page's name ends in .html")
    text = render()
    with atomic_write(out, "w") as file:
        file.write(text)
    print(f"{out}: {len(text.encode('utf-8')) / 1e6:.1f} MB")
