"""The page: well-formed, whole and alone; what it says of made-up and of the published results."""

import re
import shutil
import xml.etree.ElementTree as ElementTree

from common.errors import UserError
from results import page
from results.intervals import spread
from results.store import ROOT, load_results, versions

import pytest
from markupsafe import Markup
from test_plots import luminance, metrics, project, put

__all__ = ["project"]  # a fixture
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('1')</script> & <b>"
CURVE = metrics([2.0, 1.5])
NEAR = {"head": ["word", "nearest"], "rows": [["red", "blue 0.90"]]}
URL = "data:image/png;base64,AAAA"


class Page:
    """The page, which is well-formed XML too: its elements and its text."""

    def __init__(self, text):
        self.root = ElementTree.fromstring(text)
        self.words = " ".join(" ".join(self.root.find("body").itertext()).split())

    def all(self, tag, **wanted):
        found = [each.attrib for each in self.root.iter(tag)]
        return [a for a in found if all(a.get(key) == value for key, value in wanted.items())]


def check_whole(text):
    """What every page has to be; the page as it was read."""
    read = Page(text)
    elements = [(each.tag, each.attrib) for each in read.root.iter()]
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and {*versions()} <= {*ids}
    for tag, attrs in elements:  # nothing is loaded from elsewhere; a link may lead there
        hrefs = [value for key, value in attrs.items() if re.search("(src|href|data|poster)$", key)]
        allowed = "#|https://" if tag == "a" else "#|data:image/png;base64,"
        assert all(re.match(allowed, value) for value in hrefs), attrs
        wanted = re.findall(r"url\(#(.*?)\)", str(attrs)) + attrs.get("aria-labelledby", "").split()
        wanted += [value[1:] for value in hrefs if value.startswith("#")]
        assert {*wanted} <= {*ids}
    assert not {tag for tag, _ in elements} & {"link", "iframe", "object", "embed", "base"}
    for _, attrs in elements:  # what needs JavaScript is not there without it
        if {*attrs} & {"data-curves", "data-only", "data-unfold"}:
            assert attrs.get("hidden") == ""
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(attrs.get("alt") for attrs in read.all("img"))
    assert all("tabindex" in attrs for attrs in read.all("div", **{"class": "scroll"}))
    return read


# ---- the page ----


@pytest.mark.slow
def test_the_page_of_the_published_results(tmp_path, capsys):
    out = tmp_path / "page.html"
    page.page(str(out), pictures=False)
    text = out.read_text(encoding="utf-8")
    assert len(text.encode()) < 3e6 and str(out) in capsys.readouterr().out
    read = check_whole(text)
    for version in versions():
        script = (ROOT / f"{version}.py").read_text(encoding="utf-8")
        assert f"{version}: {page.docstring(script, version)[0]}" in read.words
        if runs := load_results(f"{version}-sample"):
            assert spread(runs) in read.words
            assert " ".join(runs[min(runs)].sample.split()) in read.words
    assert len(read.all("details")) == len(read.all("summary")) == len(versions()) - 1
    captions = [a["aria-label"] for a in read.all("div") if a.get("aria-label") in page.TABLES]
    assert len(captions) == len(set(captions))  # each table once


def test_with_nothing_published_the_page_says_what_publishes(project):
    read = check_whole(page.render())
    assert "No run is published yet" in read.words and "not published yet" in read.words
    assert read.words.count("No curves yet: python -m results publish") == 2
    assert not read.all(f"{SVG}svg")


def test_a_new_version_is_on_the_page(project):
    (project / "v99.py").write_text('"""v99: an idea."""\nx = 1\n', encoding="utf-8")
    put(project, "v99-sample", [1.5, 1.6], curve=CURVE, sample="A new tale.")
    read = check_whole(page.render())
    assert "v99: an idea" in read.words and read.words.count("A new tale.") == 1
    assert read.all("input", **{"data-curve": "sample-v99-"})
    for tag in ("li", "section", "label"):  # one colour in all places
        assert read.all(tag, style=f"--own: {page.colour('v99')}")


def test_curves_have_parts_that_can_be_switched_off(project):
    put(project, "v1-sample", [1.5, 1.6, 1.7], curve=CURVE)
    put(project, "v1_1-sample", [1.2], curve=CURVE)
    put(project, "v2-sample", [1.0], curve=None)  # as older files are
    put(project, "v1-wikitext-2", [1.0, 2.0], data={"name": "wikitext-2"}, curve=CURVE)
    read = check_whole(page.render())
    curves = [box["data-curve"] for box in read.all("input", type="checkbox")]
    assert curves == ["sample-v1-", "sample-v1_1-", "wikitext-2-v1-"]
    ids = {attrs.get("id") for attrs in read.all(f"{SVG}g")}
    assert {f"sample-v1-{part}" for part in ("line", "band", "label", "arrow")} <= ids
    assert {f"sample-v1_1-{part}" for part in ("line", "label", "arrow")} <= ids
    assert "sample-v1_1-band" not in ids  # of one seed


def test_samples_and_ideas_are_text_not_markup(project):
    put(project, "v0-sample", [1.5], sample=f"One {HOSTILE}", idea=f"idea `{HOSTILE}`")
    text = f'"""v0: an idea {HOSTILE}.\n\nWords, `code {HOSTILE}`."""\nx = "{HOSTILE}"\n'
    (project / "v0.py").write_text(text, encoding="utf-8")
    made = page.render()
    read = check_whole(made)
    assert "alert" not in "".join(re.findall("<script>(.*?)</script>", made, re.S))
    assert len(read.all("script")) == 1 and not read.all("b")
    for part in (f"One {HOSTILE}", f"an idea {HOSTILE}", f"code {HOSTILE}"):
        assert part in read.words


def test_pictures_have_a_text_that_says_what_they_show(project):
    pictures = {"v2": [(URL, "attention weights", None), (URL, "where words lie", NEAR)]}
    read = check_whole(page.render(pictures))
    assert [each["alt"] for each in read.all("img")] == ["attention weights", "where words lie"]
    assert read.words.count("blue 0.90") == 1


def test_the_run_that_is_drawn_is_of_the_version_and_the_sample(project):
    own, published = project / "runs" / "v2", project / "runs" / "published" / "v2-sample-seed1"
    with pytest.raises(UserError, match="no run on the sample in runs/v2"):
        page.run_to_draw("v2")
    for folder, data in ((own, "sample"), (published, "notes.txt")):
        put(project, "v2-sample", [1.5], data={"name": data})
        folder.mkdir(parents=True)
        (project / "results" / "v2-sample-seed1.json").rename(folder / "result.json")
    assert page.run_to_draw("v2") == own


def test_a_page_has_a_page_s_name(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "render", lambda pictures: "")
    for name, says in (("page.pdf", "ends in .html"), ("no/page.html", "can't write")):
        with pytest.raises(UserError, match=says):
            page.page(str(tmp_path / name), pictures=False)
    assert not list(tmp_path.iterdir())


# ---- Markdown and diffs ----


def test_markdown_tables_and_paragraphs_become_html():
    text = (
        "| a `b` | c\\|d |\n| --- | --- |\n| **1** | <2> |\n\nSee [x](https://a.org/y), `z`\nand w."
    )
    table, paragraph = page.blocks(text)
    assert table["head"] == ["a <code>b</code>", "c|d"]
    assert table["rows"] == [["<strong>1</strong>", "&lt;2&gt;"]]
    assert paragraph["text"] == 'See <a href="https://a.org/y">x</a>, <code>z</code> and w.'
    assert "href" not in page.inline('[x](javascript:alert) [y](https://a.org/"onclick=1)')[:24]


def test_a_diff_leaves_out_what_is_the_same():
    before = [f"line {n}" for n in range(20)]
    after = [*before[:9], "new", "line 9 b", *before[10:18], "line 19"]
    rows = page.diff_lines("\n".join(before), "\n".join(after))
    assert rows[0] == ("gap", "", "", 6) and rows[1][:3] == ("same", 7, 7)
    changed = [row[:3] for row in rows if row[0] in ("old", "new")]
    assert changed == [("old", 10, ""), ("new", "", 10), ("new", "", 11), ("old", 19, "")]
    left_out = sum(html for kind, *_, html in rows if kind == "gap")
    assert left_out + len({row[1] for row in rows if row[1]}) == 20


@pytest.mark.parametrize("after", ["x = 1\n", '"""Doc\nx <b>\n"""\n\ny = "&"\n', "a\n\n\nb"])
def test_both_sides_of_a_diff_are_the_whole_texts(after):
    before = '"""Doc\nx <b>\n"""\nx = 1\n'
    rows = page.diff_lines(before, after)
    for side, text in (("old", before), ("new", after)):
        lines = [Markup(html).striptags() for kind, *_, html in rows if kind in (side, "same")]
        assert lines == [line.strip() for line in text.strip("\n").split("\n")]


def test_every_text_can_be_read_on_every_ground_in_light_and_in_dark():
    """A contrast of 4.5 to 1, as WCAG 2 (AA) requires, of code on the grounds of a diff too."""
    style = (ROOT / "results" / "page.html.jinja").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in blocks]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    grounds = {text: ["page", "old", "new"] for text in ("text", "faint", *"csmkfb")}
    grounds |= {"link": ["page"], "text": ["page", "old", "new", "soft"]}
    for scheme in schemes:
        for text, each in grounds.items():
            for ground in each:
                low, high = sorted(luminance(scheme[name]) for name in (text, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's own, or else the one that playwright has fetched."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_api.sync_playwright() as playwright:
        own = next(filter(None, map(shutil.which, names)), None)
        try:
            made = playwright.chromium.launch(executable_path=own)
        except sync_api.Error as error:
            pytest.skip(
                f"no browser starts: apt-get install chromium ({str(error).splitlines()[0]})"
            )
        yield made
        made.close()


STOPS = "a, button, input, summary, [tabindex='0']"
REACHED = f"""() => {{
  const one = document.activeElement, style = getComputedStyle(one);
  const all = [...document.querySelectorAll("{STOPS}")].filter((each) => each.checkVisibility());
  return [all.indexOf(one), style.outlineStyle != "none" && parseFloat(style.outlineWidth) >= 2];
}}"""
SIDEWAYS = """() => [...document.querySelectorAll("body *")].filter((one) =>
  one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, svg"))
  .map((one) => one.outerHTML)"""


@pytest.mark.browser
def test_on_a_dark_phone_with_the_keyboard_alone(tmp_path, browser):
    path = tmp_path / "page.html"
    path.write_text(page.render({"v2": [(URL, "a picture", NEAR)]}), encoding="utf-8")
    shown = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    trouble = []
    shown.on("request", lambda request: trouble.append(request.url))
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.goto(path.as_uri())
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    for box in shown.locator("[data-curve]").all():  # a curve is switched off, and on again
        line = shown.locator(f"#{box.get_attribute('data-curve')}line")
        for on in (False, True):
            box.press("Space")
            assert box.is_checked() == line.is_visible() == on
    shown.get_by_role("link", name="Compare its curve with that of v2").press("Enter")
    checked = [box.get_attribute("data-version") for box in shown.locator(":checked").all()]
    assert set(checked) == {"v2", "v3"}
    shown.get_by_role("button", name="Unfold all diffs").press("Enter")
    assert shown.locator("details.change[open]").count() == len(versions()) - 1
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    assert shown.evaluate(SIDEWAYS) == []
    shown.goto(path.as_uri())  # without the link's #curves: the focus starts at the top
    shown.evaluate("for (const diff of document.querySelectorAll('details')) diff.open = true")
    for number in range(shown.locator(f":is({STOPS}):visible").count()):
        shown.keyboard.press("Tab")
        assert shown.evaluate(REACHED) == [number, True]
    assert {each for each in trouble if not each.startswith("data:")} == {path.as_uri()}
    shown.close()
