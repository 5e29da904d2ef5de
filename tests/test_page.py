"""The page: well-formed, whole, and alone; what it says of made-up and of the published results."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest
from test_compare import bare_project
from test_results import made_up, put

from results import page as report
from results import tables as results
from common.cli import run_main
from common.errors import UserError

VOID = {"meta", "br", "img", "input", "link", "hr", "col"}
HOSTILE = "<script>alert('1')</script> & <b>"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return bare_project(tmp_path, monkeypatch)


class Page(html.parser.HTMLParser):
    """The page read once: its elements with their attributes, its text, and every wrong nesting."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.elements, self.text = [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag} at {self.getpos()}")

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag, **wanted):
        return [a for name, a in self.elements
                if name == tag and all(a.get(k) == v for k, v in wanted.items())]  # fmt: skip


def check_whole(text):
    """What has to be so of every page; the page as it was read."""
    page = Page(text)
    assert page.wrong == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)), [one for one in ids if ids.count(one) > 1]
    assert {one for one in ids if one.startswith("v")} >= set(results.ORDER)
    for _, attrs in page.elements:  # links within the page and pictures within it; nothing else
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match("#|data:image/png;base64,", attrs.get(key, "#")), attrs
        for key in ("xlink:href", "style", "clip-path", "fill"):
            assert "//" not in (attrs.get(key) or "")
    assert not {name for name, _ in page.elements} & {"link", "iframe", "object", "embed", "base"}
    style = "".join(re.findall("<style>(.*?)</style>", text, re.S))
    assert "@import" not in style and "url(" not in re.sub(r"url\(#\w+\)", "", style)
    for attrs in page.all("a"):
        assert attrs["href"].removeprefix("#") in ids
    for name, attrs in page.elements:  # whatever names another element names one that is there
        assert set(attrs.get("aria-labelledby", "").split()) <= set(ids), name
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert len(page.all("html", lang="en")) == 1 and page.all("meta", name="viewport")
    assert all("tabindex" in attrs for attrs in page.all("div", **{"class": "scroll"}))
    return page


CURVE = [{"step": 9 * i, "tokens": 10**6 * i, "seconds": i, "val_bits_per_byte": 2.0 - i / 2}
         for i in (0, 1)]  # fmt: skip


def leave_runs(folder, name):
    """What publishing leaves in runs/published, as much as is asked of it here."""
    for path in (folder / "results").glob(f"{name}-seed*.json"):
        home = folder / "runs" / "published" / path.stem
        home.mkdir(parents=True)
        (home / "result.json").write_bytes(path.read_bytes())


# ---- the page ----


def test_the_page_of_the_published_results(tmp_path, monkeypatch, capsys):
    """As a person calls it, without pictures: those of runs are as large as they like to be."""
    out = tmp_path / "report.html"
    monkeypatch.setattr("sys.argv", ["report.py", "--out", str(out), "--no-pictures"])
    run_main(lambda: report.run_command(report.report, report.__doc__))
    text = out.read_text(encoding="utf-8")
    page = check_whole(text)
    assert len(text.encode()) < 3e6 - report.PICTURES_MOST and str(out) in capsys.readouterr().out
    words = " ".join(" ".join(page.text).split())
    for version in results.ORDER:
        idea, paragraphs = report.docstring(version)
        assert f"{version}: {idea}" in words
        for sentence in paragraphs[0].replace("`", " ` ").split(" ` ")[:1]:
            assert sentence in words
        runs = results.load_results(f"{version}-sample")
        if runs:
            assert results.spread(runs) in words
            assert " ".join(runs[min(runs)]["sample"].split()) in words
    assert len(page.all("details")) == len(page.all("summary")) == len(results.ORDER) - 1
    looks = {attrs.get("class") for tag in ("span", "del", "ins") for attrs in page.all(tag)}
    assert looks >= set(report.LOOKS_OF_CODE.values())


def test_with_nothing_published_it_says_what_makes_it(folder):
    page = check_whole(report.page())
    words = " ".join(" ".join(page.text).split())
    assert "No run is published yet: python -m results.tables publish" in words
    assert words.count("No curves:") == 2 and "has been asked" in words
    assert "not published yet" in words and not page.all("img") and not page.all("svg")


def test_curves_of_results_are_drawn_and_can_be_switched_off(folder):
    put(folder / "results", "v1-sample", [1.5, 1.6, 1.7], curve=CURVE)
    put(folder / "results", "v1_1-sample", [1.2], curve=CURVE)
    put(folder / "results", "v2-sample", [1.0])  # as older files are
    wikitext = {"data": {"name": "wikitext-2"}, "val_word_perplexity": 300.0}
    put(folder / "results", "v1-wikitext-2", [1.0, 2.0], **wikitext, curve=CURVE)
    page = check_whole(report.page())
    boxes = page.all("input", type="checkbox")
    curves = ["sample-v1-", "sample-v1_1-", "wikitext-2-v1-"]
    assert [box["data-curve"] for box in boxes] == curves
    ids = [attrs["id"] for name, attrs in page.elements if name == "g" and "id" in attrs]
    parts = {box["data-curve"]: [i for i in ids if i.startswith(box["data-curve"])]
             for box in boxes}  # fmt: skip
    assert set(parts["sample-v1-"]) == {
        f"sample-v1-{part}" for part in ("line", "band", "label", "arrow")
    }
    assert set(parts["sample-v1_1-"]) == {f"sample-v1_1-{p}" for p in ("line", "label", "arrow")}
    labels = [attrs["aria-label"] for attrs in page.all("div", role="img")]
    assert len(labels) == 2 and "v1, v1_1" in labels[0]
    for _, attrs in page.elements:  # what a picture takes from elsewhere is there
        wanted = re.findall(r"(?:url\(|^)#([^)]+)", attrs.get("xlink:href") or "")
        assert set(wanted + re.findall(r"url\(#(.*?)\)", str(attrs))) <= {
            other.get("id") for _, other in page.elements
        }


def test_a_folder_of_another_run_than_the_published_is_not_drawn(folder):
    put(folder / "results", "v1-sample", [1.5, 1.6])
    leave_runs(folder, "v1-sample")
    put(folder / "results", "v1-sample", [1.5, 1.7])
    assert list(report.folders("v1", "sample")) == [1]


def test_samples_and_ideas_are_text_not_markup(folder):
    put(folder / "results", "v0-sample", [1.5], sample=f"One {HOSTILE}", idea=HOSTILE)
    text = f'"""v0: an idea {HOSTILE}.\n\nWords, `code {HOSTILE}`."""\nx = "{HOSTILE}"\n'
    (folder / "v0.py").write_text(text, encoding="utf-8")
    made = report.page()
    page = check_whole(made)
    assert "alert" not in "".join(re.findall("<script>(.*?)</script>", made, re.S))
    assert len(page.all("script")) == 1 and not page.all("b")
    words = "".join(page.text)
    for part in (f"One {HOSTILE}", f"an idea {HOSTILE}", f"code {HOSTILE}", f'x = "{HOSTILE}"'):
        assert part in words


def test_a_step_shows_its_answers_beside_those_of_the_version_before(folder):
    row = {"n": 9, "right": 3, "accuracy": 1 / 3, "low": 0.12, "high": 0.65, "chance": 0.25}
    probes = {"questions_sha256": "a", "kinds": {"copying": row}}
    for version in ("v0", "v1", "v3"):
        put(folder / "results", f"{version}-sample", [1.5], probes=probes)
    head, rows = results.probe_rows()
    assert report.columns(head, rows, [None, "v0"])[0] == ["question", "chance", "v0 (1)"]
    head_of_two, rows_of_two = report.columns(head, rows, ["v0", "v1"])
    assert head_of_two == ["question", "chance", "v0 (1)", "v1 (1)"]
    assert rows_of_two == [["copying", "25 %", "33 %", "33 %"]]
    assert report.columns(head, rows, ["v1", "v1_1"]) is None
    assert report.columns(head, rows, ["v2", "v3"])[0] == ["question", "chance", "v3 (1)"]
    labels = [attrs.get("aria-label") for attrs in check_whole(report.page()).all("div")]
    assert [f"Right answers of {v}" in labels for v in results.ORDER] == [1, 1, 0, 0, 1, 0]


def test_pictures_have_a_text_that_says_what_they_show(folder):
    near = (["word", "nearest"], [["red", "blue 0.90"]])
    url = "data:image/png;base64,AAAA"
    pictures = {"v2": [(url, "where the heads look", None), (url, "where words lie", near)]}
    page = check_whole(report.page(pictures))
    assert [each["alt"] for each in page.all("img")] == ["where the heads look", "where words lie"]
    assert "".join(page.text).count("blue 0.90") == 1


def test_pictures_that_make_the_page_too_large_are_left_out(folder, monkeypatch, capsys):
    put(folder / "results", "v1-sample", [1.5])
    put(folder / "results", "v2-sample", [1.5])
    for version in ("v1", "v2"):
        leave_runs(folder, f"{version}-sample")
        home = folder / "runs" / "published" / f"{version}-sample-seed1"
        (home / "best.pt").write_bytes(b"")
        settings = {"version": version, "config": {"n_layer": 2}}
        (home / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    from results import inside, saved

    def attention(run, layer, out):
        if "v1" in run:
            raise UserError("v1 has no attention")
        assert layer == 2
        Path(out).write_bytes(b"x" * 30)

    def embeddings(run, out):
        Path(out).write_bytes(b"x" * 60)
        return ["word", "nearest"], [["red", "blue 0.90"]]

    monkeypatch.setattr(saved, "ROOT", folder)
    monkeypatch.setattr(inside, "attention", attention)
    monkeypatch.setattr(inside, "embeddings", embeddings)
    monkeypatch.setattr(report, "PICTURES_MOST", 125)  # 60 bytes are 80 characters, 30 are 40
    drawn = report.draw_pictures()
    assert {version: len(each) for version, each in drawn.items()} == {"v1": 1, "v2": 1}
    assert "attention heads of v2" in drawn["v2"][0][1]
    said = capsys.readouterr().err.splitlines()
    none = "no pictures of {0}: no run in runs/published/{0}-sample-seed1 or runs/{0}"
    assert said == [none.format("v0"), "no picture of attention: v1 has no attention",
                    none.format("v1_1"), "no picture of embeddings of v2: no room is left",
                    none.format("v3"), none.format("v4")]  # fmt: skip
    assert drawn["v1"][0][2] == (["word", "nearest"], [["red", "blue 0.90"]])


def test_where_no_published_run_lies_here_one_s_own_is_drawn(folder):
    own = folder / "runs" / "v2"
    own.mkdir(parents=True)
    (own / "best.pt").write_bytes(b"")
    assert report.pictured("v2") is None  # it is not finished
    for data, found in (("notes.txt", None), ("sample", own)):
        result = made_up("v2", 1, 1.5, data={"name": data})
        (own / "result.json").write_text(json.dumps(result), encoding="utf-8")
        assert report.pictured("v2") == found
    put(folder / "results", "v2-sample", [1.5])
    leave_runs(folder, "v2-sample")
    home = folder / "runs" / "published" / "v2-sample-seed1"
    (home / "best.pt").write_bytes(b"")
    assert report.pictured("v2") == home


def test_a_page_has_a_page_s_name(folder, monkeypatch, capsys):
    for name, said in (("report.pdf", "ends in .html"), ("no/r.html", "can't write")):
        out = folder / name
        monkeypatch.setattr("sys.argv", ["report.py", "--out", str(out), "--no-pictures"])
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: report.run_command(report.report, report.__doc__))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and said in error
        assert not out.exists()


# ---- the diffs ----


def test_a_diff_side_by_side():
    before = [f"line {n}" for n in range(20)]
    after = [*before[:9], "new", "line 9 b", *before[10:18], "line 19"]
    rows = report.diff_rows("\n".join(before), "\n".join(after))
    assert rows[0] == {"skipped": 6} and rows[1]["n"] == rows[1]["m"] == 7
    changed = [(row["n"], row["m"]) for row in rows if row.get("changed")]
    assert changed == [(10, 10), (None, 11), (19, None)]
    shown = [row["n"] for row in rows if row.get("n")]
    assert sum(row.get("skipped", 0) for row in rows) + len(shown) == 20


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "a\nb"), ("a\nb", ""), ("a", "a"), ("a\n\nb\n", "\nb\nc"), ("x = 1", "x  =  2\n")],
)
def test_both_sides_of_a_diff_are_the_whole_texts(before, after):
    rows = report.diff_rows(before, after)
    for side, text in (("old", before), ("new", after)):
        shown = [row[side] for row in rows if row.get(side) is not None]
        lines = ["".join(part for part, *_ in pieces) for pieces in shown]
        assert lines == (text.splitlines() if before != after else [])


def test_every_diff_of_the_lineage_has_as_many_lines_as_its_size():
    for before, after in zip(results.ORDER, results.ORDER[1:]):
        texts = [(results.ROOT / f"{v}.py").read_text(encoding="utf-8") for v in (before, after)]
        rows = [row for row in report.diff_rows(*texts) if row.get("changed")]
        removed, added = (sum(row[side] is not None for row in rows) for side in ("old", "new"))
        assert results.diff_size(before, after) == f"+{added} −{removed}"


def test_only_the_words_that_differ_are_marked():
    pieces = [("x = a ", False), ("+", True), (" b", False)]
    assert report.marked("x = a + b", "x = a * b") == pieces
    assert report.marked("a line of words", "and not one of them") == [("a line of words", False)]
    assert report.marked("alone", None) == [("alone", False)] and report.marked(None, "a") is None


def test_code_is_coloured_as_what_it_is():
    """A docstring's second line is a string as its first is: the file is read as a whole."""
    text = '"""One.\n\nif 2."""\n@cached  # why\ndef f(x):\n    return not len("a") + 3.5\n'
    lines = [report.coloured([(line, False)], looks)
             for line, looks in zip(text.splitlines(), report.looks_of_code(text))]  # fmt: skip
    found = [(text, look) for pieces in lines for text, _, look in pieces if look]
    assert found == [
        ('"""One.', "s"), ('if 2."""', "s"), ("@cached", "f"), ("# why", "c"), ("def", "k"),
        ("f", "f"), ("return", "k"), ("not", "k"), ("len", "b"), ('"a"', "s"), ("3.5", "n"),
    ]  # fmt: skip


def test_colours_of_code_and_marks_of_differing_words_combine():
    pieces, looks = [("x = ", False), ("1 # b", True)], ["", "", "", "", "n", "", "c", "c", "c"]
    assert report.coloured(pieces, looks) == [
        ("x = ", False, ""), ("1", True, "n"), (" ", True, ""), ("# b", True, "c")]  # fmt: skip
    rows = report.diff_rows('"""A\nif b"""\n', '"""A\nif c"""\n')
    assert rows[1]["new"] == [("if ", False, "s"), ("c", True, "s"), ('"""', False, "s")]


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), parts))


def test_every_text_can_be_read_on_every_ground_in_light_and_in_dark():
    """A contrast of 4.5 to 1, which WCAG 2 asks for (AA), of code on the marks of a diff too."""
    style = (Path(report.__file__).parent / "page.html.jinja").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--([\w-]+): #(\w+);", block))
               for block in re.findall(r":root \{(.*?)\}", style, re.S)]  # fmt: skip
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    looks = set(report.LOOKS_OF_CODE.values())
    for look in looks:
        assert re.search(rf"\.{look} \{{ color: var\(--{look}\);", style)
    grounds = {text: ["page", "old", "new", "old-word", "new-word"] for text in {"text", *looks}}
    grounds |= {"faint": ["page", "soft"], "link": ["page"]}
    grounds["text"] += ["soft"]
    for scheme in schemes:
        for text, each in grounds.items():
            for ground in each:
                low, high = sorted(luminance(scheme[name]) for name in (text, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's own, or else the one that playwright has fetched."""
    how = ("python -m pip install -r tests/requirements.txt, and Debian's chromium (apt-get install"
           " chromium) or python -m playwright install chromium")  # fmt: skip
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {how}")
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_api.sync_playwright() as playwright:
        own = next(filter(None, map(shutil.which, names)), None)
        try:
            made = playwright.chromium.launch(executable_path=own)  # without sandbox: as root too
        except sync_api.Error as error:
            pytest.skip(f"no browser starts: {how} ({str(error).splitlines()[0]})")
        yield made
        made.close()


REACHED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const all = [...document.querySelectorAll("a, button, input, summary, [tabindex='0']")];
  const ring = style.outlineStyle != "none" && parseFloat(style.outlineWidth) >= 2;
  return [all.filter((each) => each.checkVisibility()).indexOf(one), ring];
}"""
COUNT = """[...document.querySelectorAll("a, button, input, summary, [tabindex='0']")]
  .filter((each) => each.checkVisibility()).length"""
SIDEWAYS = """() => [...document.querySelectorAll("body *")].filter((one) =>
  one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, svg")
  || one.matches(".change .scroll") && one.scrollWidth > one.clientWidth)
  .map((one) => one.outerHTML)
"""


def try_page(browser, path):
    """What has to be so of every page on a phone's screen in the dark; the page, unfolded."""
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    trouble = []
    page.on("request", lambda request: trouble.append(request.url))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(path.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    for box in page.locator("[data-curve]").all():  # a curve is switched off, and on again
        line = page.locator(f"#{box.get_attribute('data-curve')}line")
        for shown in (False, True):
            box.press("Space")
            assert box.is_checked() == line.is_visible() == shown
    diffs = page.locator("details.change")
    diffs.first.locator("summary").press("Enter")
    assert [diff.get_attribute("open") is not None for diff in diffs.all()] == [
        True, *[False] * (len(results.ORDER) - 2)]  # fmt: skip
    page.get_by_role("button", name="Unfold all diffs").press("Enter")
    assert page.locator("details.change[open]").count() == len(results.ORDER) - 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(SIDEWAYS) == []
    page.reload()  # the focus starts at the top again
    page.evaluate("for (const diff of document.querySelectorAll('details')) diff.open = true")
    for number in range(page.evaluate(COUNT)):  # Tab goes through all, and one sees where it is
        page.keyboard.press("Tab")
        assert page.evaluate(REACHED) == [number, True]
    assert trouble == [path.as_uri()] * 2
    return page


def test_in_a_browser(folder, tmp_path, browser):
    put(folder / "results", "v1-sample", [1.5, 1.6], curve=CURVE)
    put(folder / "results", "v2-sample", [1.5], sample="x" * 3000, curve=CURVE)
    path = tmp_path / "report.html"
    for version, text in (("v1", "x = 1\n"), ("v2", f"y = {'9' * 300}\n")):
        text = f'"""{version}: an idea."""\n{text}'
        (folder / f"{version}.py").write_text(text, encoding="utf-8")
    path.write_text(report.page(), encoding="utf-8")
    page = try_page(browser, path)
    shown = [page.locator(f"#sample-{version}-line").is_visible for version in ("v1", "v2")]
    page.get_by_label("v1", exact=True).press("Space")
    assert [one() for one in shown] == [False, True]
    page.get_by_role("link", name="Its curve beside that of v0").press("Enter")
    assert [one() for one in shown] == [True, False]
    page.close()


def test_the_published_page_in_a_browser(tmp_path, browser):
    path = tmp_path / "report.html"
    path.write_text(report.page(), encoding="utf-8")
    try_page(browser, path).close()


def test_without_javascript_nothing_is_missing(folder, tmp_path, browser):
    put(folder / "results", "v1-sample", [1.5], sample="A tale.", curve=CURVE)
    path = tmp_path / "report.html"
    path.write_text(report.page(), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#sample-v1-line").is_visible()
    tales = page.get_by_text("A tale.").all()
    assert tales and all(each.is_visible() for each in tales)
    assert page.locator("details.change").count() == len(results.ORDER) - 1
    for diff in page.locator("details").all():
        diff.locator("summary").click()
        assert diff.locator(".code").first.is_visible()
    controls = page.locator("input, button, [data-only]").all()
    assert controls and not any(each.is_visible() for each in controls)
    context.close()
