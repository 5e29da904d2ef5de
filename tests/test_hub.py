"""The hub, as its unmodified client meets it: well, slow, busy and gone (see fake_hub.py)."""

import re
import time

from common.data import SPLITS, load_corpus

import pytest
from fake_hub import FakeHub
from huggingface_hub import HfFileSystem
from huggingface_hub.utils import httpx
from inputs import table
from lineage import refused


def rows(split):
    """Rows shaped like WikiText's: a blank line, a title, a blank line, a paragraph."""
    return [
        row
        for number in range({"train": 40, "validation": 4, "test": 5}[split])
        for row in ("", f" = Title {number} = \n", "", f" In the {split} split , {number} . \n")
    ]


def dataset(*configs):
    """The files of a repository with these configurations, its card among them."""
    files, card = {}, ["---", "configs:"]
    for config in configs:
        card += [f"- config_name: {config}", "  data_files:"]
        for split in SPLITS:
            files[f"{config}/{split}-00000-of-00001.parquet"] = table(text=rows(split))
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    card += ["---", "# A dataset for tests"]
    return {**files, "README.md": "\n".join(card).encode()}


TEXT = {split: "".join(rows(split)) for split in SPLITS}


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub, and a client whose cache is empty and whose pauses are noted instead of waited for."""
    import datasets
    import huggingface_hub

    hub, hub.pauses = FakeHub(), []
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, asked: hub.answer(asked))
    monkeypatch.setattr(time, "sleep", hub.pauses.append)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    for name in ("WIKITEXT_DIR", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return hub


def load(hub, name, *faults):
    """The texts of a corpus, as a program that has only just begun loads them."""
    HfFileSystem.clear_instance_cache()
    hub.faults = [list(fault) for fault in faults]
    hub.log.clear()
    corpus = load_corpus(name)
    return {split: "".join(corpus.pieces(split)) for split in SPLITS}


def fetched(hub):
    """What was fetched: the names of the data files, in order."""
    wanted = re.compile(r"GET /lfs/.*/(\w+)-00000")
    return [found[1] for line in hub.log if (found := wanted.match(line))]


def test_wikitext_comes_from_the_hub_once_and_then_from_the_cache(hub, monkeypatch):
    hub.repositories["Salesforce/wikitext"] = dataset("wikitext-2-v1", "wikitext-103-v1")
    hub.repositories["some/tales"] = dataset("old", "new")
    texts = load(hub, "wikitext-2")
    assert fetched(hub) == [*SPLITS] and not any("103" in line for line in hub.log)
    assert texts["train"].startswith(" \n = Title 0 = \n \n In the train split , 0 . \n")
    assert load(hub, "hf:some/tales:new:text") == TEXT
    assert load(hub, "wikitext-2") == texts  # the hub is asked whether anything has changed
    assert hub.log and not re.search("GET /(datasets|lfs)/", "\n".join(hub.log))
    gone = ("", 10**6, "gone")
    for offline in (False, True):  # as HF_HUB_OFFLINE=1 sets them
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", offline)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert load(hub, "wikitext-2", gone) == texts
        assert load(hub, "hf:some/tales:new:text", gone) == TEXT
        assert load(hub, "hf:some/tales:new", gone) == TEXT
        for name, said in (
            ("wikitext-103", "cannot be reached for Salesforce/wikitext"),
            ("hf:some/tales:old:text", "configuration old"),
            ("hf:some/fables", "cannot be reached"),
        ):
            with refused(said):
                load(hub, name, gone)
            assert not (offline and hub.log)


def test_configurations_and_columns(hub):
    hub.repositories |= {"a/one": dataset("only"), "a/two": dataset("small", "large")}
    for name in ("a/one", "a/one:text", "a/one:only", "a/two:large:text"):
        assert load(hub, f"hf:{name}") == TEXT


REFUSED = {  # name: what is said of it
    "a/two": "a/two has several configurations.*'small', 'large'",
    "a/two:medium:text": "a/two has no configuration 'medium'.*'small', 'large'",
    "a/one:only:prose": "column 'prose'.* text",
    "a/one:prose": "column.* 'prose'.* text",
    "a/damaged": "cannot load a/damaged.*[Pp]arquet",
    "nobody/nothing": "no public dataset nobody/nothing.*spelling.*hf auth login",
    "gated/one": "gated/one is gated.*ask for access.*hf auth login",
    "gated/two": "gated/two is gated.*ask for access.*hf auth login",
}


def test_what_the_hub_does_not_have_or_give_is_one_line(hub):
    hub.repositories |= {"a/one": dataset("only"), "a/two": dataset("small", "large")}
    damaged = {"default/test-00000-of-00001.parquet": b"PAR1 and then nothing of the kind"}
    hub.repositories["a/damaged"] = {**dataset("default"), **damaged}
    hub.refused |= {"gated/one": (401, "GatedRepo"), "gated/two": (403, "GatedRepo")}
    for name, said in REFUSED.items():
        with refused(said):
            load(hub, f"hf:{name}")


TRANSIENT = [
    ("HEAD.*README", (429, {"Retry-After": "2"})),
    ("GET.*/tree/", (429, {"RateLimit": '"api";r=0;t=2'})),
    ("GET.*/tree/", (503, {})),
    ("GET.*/tree/", "hang"),
    ("GET /lfs.*train", "hang"),
]


@pytest.mark.parametrize("pattern, fault", TRANSIENT)
def test_a_hub_that_is_unwell_for_a_moment_is_asked_again(hub, pattern, fault):
    hub.repositories["o/n"] = dataset("default")
    assert load(hub, "hf:o/n", (pattern, 1, fault)) == TEXT
    assert len([line for line in hub.log if re.search(pattern, line)]) >= 2


LASTING = [
    ("GET.*/revision/", (500, {}), "does not serve o/n for now .500"),
    ("GET /lfs.*validation", (500, {}), "does not serve o/n for now .500"),
    ("HEAD.*README", "hang", "cannot be reached for o/n"),
    ("GET.*/revision/", "hang", "cannot be reached for o/n"),
    ("GET.*/tree/", "hang", "cannot be reached for o/n"),
    ("GET /lfs.*validation", "hang", "cannot be reached for o/n"),
    ("GET /lfs.*validation", (429, {"Retry-After": "1"}), "does not serve o/n for now .429"),
    ("HEAD.*README", (429, {"Retry-After": "3600"}), "next 60 minutes .429. for .*o/n"),
    ("GET.*/tree/", (429, {"RateLimit": '"api";r=0;t=300'}), "next 5 minutes .429. for .*o/n"),
]


@pytest.mark.parametrize("pattern, fault, wanted", LASTING)
def test_a_hub_that_stays_unwell_is_one_line(hub, pattern, fault, wanted):
    """And what has come is not fetched again."""
    hub.repositories["o/n"] = dataset("default")
    with refused(wanted):
        load(hub, "hf:o/n", (pattern, 10**6, fault))
    assert sum(hub.pauses) < 100  # seconds
    if "lfs" in pattern:
        assert load(hub, "hf:o/n") == TEXT
        assert fetched(hub) == ["validation", "test"]
