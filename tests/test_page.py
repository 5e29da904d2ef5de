"""The page: well-formed, whole and alone; what it says of made-up and of the published results."""

import re
import xml.etree.ElementTree as ElementTree

from results import page
from results.intervals import spread
from results.store import ROOT, load_results, versions
from results.variants import first_text
from results.web import diffs

import pytest
from published import luminance, metrics, put, write

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('1')</script> & <b>"


class Page:
    """The page, which is well-formed XML too: its elements and its text."""

    def __init__(self, text):
        self.root = ElementTree.fromstring(text)
        for rest in self.root.findall(".//blockquote/details/summary"):
            rest.text = " "  # it stands within a story
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
    for _, attrs in elements:  # nothing is loaded, and nothing that is named is missing
        loaded = [value for key, value in attrs.items() if re.search("(src|data|poster)$", key)]
        wanted = [value for key, value in attrs.items() if re.search("(labelledby|for)$", key)]
        links = [attrs["href"]] if "href" in attrs else []
        assert not loaded and all(re.match("#|https://", link) for link in links), attrs
        wanted += [link[1:] for link in links if link.startswith("#")]
        assert {*" ".join(wanted).split()} <= {*ids}, attrs
    assert not {tag for tag, _ in elements} & {"link", "iframe", "object", "embed", "base", "img"}
    # What needs JavaScript is not there without it.
    assert all(attrs.get("hidden") == "" for _, attrs in elements if "data-script" in attrs)
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all("tabindex" in attrs for attrs in read.all("div", **{"class": "scroll"}))
    assert all(attrs.get("aria-label") for _, attrs in elements if attrs.get("role") == "img")
    return read


# ---- the page ----


@pytest.mark.slow
def test_the_published_page_is_what_the_command_writes_and_tells_every_version(tmp_path, capsys):
    out, path = tmp_path / "page.html", ROOT / "results" / "page.html"
    page.page(str(out))
    assert str(out) in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    read = check_whole(text)
    for version in versions():
        script = (ROOT / f"{version}.py").read_text(encoding="utf-8")
        assert page.docstring(script, version)[0] in read.words
        if runs := load_results(f"{version}-sample"):
            assert spread(runs) in read.words
            assert " ".join(first_text(runs[min(runs)]).split()) in read.words
    captions = [a["aria-label"] for a in read.all("div") if a.get("aria-label") in page.TABLES]
    assert captions == [*page.TABLES] and len(text.encode()) < 8e6
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        pytest.fail("results/page.html is out of date: python -m results page", pytrace=False)


def test_every_version_has_prose_a_drawing_and_an_exercise():
    found = page.chapters()
    for each in found:  # results/web/chapters.toml, results/web/vN.svg and the README's questions
        assert each["prose"].idea and "drawing" in each and each["exercise"], each["version"]
    assert len({each["colour"] for each in found}) == len(found)


def test_with_nothing_published_the_page_says_what_publishes(project):
    read = check_whole(page.render())
    assert "No run is published yet" in read.words and "not published yet" in read.words
    assert read.words.count("No curves yet: python -m results publish") == 2
    assert not read.all("section", **{"class": "play"})  # no weights, no models that run


def test_a_new_version_is_on_the_page_told_by_its_docstring(project):
    write(project / "v99.py", '"""v99: an idea.\n\nMore of\nit.\n"""\nx = 1\n')
    put(project, "v99-sample", [1.5, 1.6], curve=metrics([2, 1]), sample="A new tale.\n\nAnother.")
    read = check_whole(page.render())
    assert "an idea" in read.words and "More of it." in read.words
    assert read.words.count("A new tale.") == 1 and "Another." not in read.words
    for tag in ("li", "section", "label", f"{SVG}g"):  # one colour in all places
        assert read.all(tag, style=f"--own: {page.colour('v99')}")


def test_samples_and_ideas_are_text_not_markup(project):
    put(project, "v0-sample", [1.5], sample=f"One {HOSTILE}", idea=f"idea `{HOSTILE}`")
    text = f'"""v0: an idea {HOSTILE}.\n\nWords, `code {HOSTILE}`."""\nx = "{HOSTILE}"\n'
    write(project / "v0.py", text)
    read = check_whole(page.render())
    assert len(read.all("script")) == 1 and "alert" not in read.root.find(".//script").text
    for part in (f"One {HOSTILE}", f"an idea {HOSTILE}"):
        assert part in read.words
    assert page.embedded({"a": "</script><!-- & "}) == '{"a":"\\u003c/script>\\u003c!-- \\u0026 "}'
    assert "href" not in page.inline('[x](javascript:alert) [y](https://a.org/"onclick=1)')[:24]


@pytest.mark.parametrize("lines", [diffs.WHOLE - 1, 2 * diffs.WHOLE])
def test_a_long_section_is_folded_after_its_first_lines_and_loses_none(lines):
    old, new = ([f"{name} = {i}" for i in range(lines // 2)] for name in ("old", "new"))
    header = "# ---- Model ----\n"
    (section,) = diffs.diff_sections(*(header + "\n".join([*each, "end"]) for each in (old, new)))
    shown, rest = (
        [re.sub("<.*?>", "", line) for _, *sides in parts for side in sides for _, line in side]
        for parts in (section["parts"], section.get("rest", []))
    )
    assert sorted(shown + rest) == sorted([*old, *new, "end"])
    assert shown[: lines // 2] == old[: len(shown)]
    folded = lines > diffs.WHOLE
    assert len(rest) == section.get("more", 0) == folded * (lines + 1 - diffs.SCREEN)


def test_two_versions_that_write_the_same_story_share_it_and_a_long_one_is_folded(project):
    long = "A bird sang. " * 50 + "The end."
    put(project, "v0-sample", [1.5], sample="A tale.")
    put(project, "v1-sample", [1.5], sample=long)
    put(project, "v1_1-sample", [1.5], sample=long)
    one, other = page.samples("v0", "v1")
    assert (one["first"], one["rest"], one["says"]) == ("A tale.", "", "v0")
    assert 300 < len(other["first"]) <= 400 and other["first"].endswith("sang.")
    assert f"{other['first']} {other['rest']}" == long
    (shared,) = page.samples("v1", "v1_1")
    assert shared["says"] == "v1 and v1_1, the same story"
    assert page.samples(None, "v2") == []


def test_every_text_can_be_read_on_every_ground_in_light_and_in_dark():
    """A contrast of 4.5 to 1, as WCAG 2 (AA) requires, of code on the grounds of a diff too."""
    style = (page.WEB / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in blocks]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    grounds = {text: ["page", "old", "new"] for text in "csmkfb"} | {"link": ["page"]}
    grounds |= {text: ["page", "old", "new", "soft"] for text in ("text", "faint")}
    for scheme in schemes:
        for text, each in grounds.items():
            for ground in each:
                low, high = sorted(luminance(scheme[name]) for name in (text, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
