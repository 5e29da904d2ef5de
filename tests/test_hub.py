"""The hub, as its unmodified client meets it: well, slow, busy and gone (see fake_hub.py).

The client reads its environment when it is imported, so it runs in processes of its own; their
pauses are shortened and noted.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from fake_hub import FakeHub
from inputs import table
from lineage import ROOT

CLIENT = """
import json, sys, time
from common.data import hub
from common.data import load_corpus
from common.errors import UserError

hub.TIMEOUT, hub.PATIENCE = 1, 3
hub.SPLITS = ("train", "validation", "test")
pauses, sleep = [], time.sleep
time.sleep = lambda seconds: (pauses.append(seconds), sleep(min(seconds, 0.01)))
for line in sys.stdin:
    pauses.clear()
    try:
        corpus = load_corpus(json.loads(line))
        answer = {split: "".join(corpus.pieces(split)) for split in hub.SPLITS}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps({**answer, "pauses": pauses}), flush=True)
"""


SPLITS = ("train", "validation", "test")


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


class Client:
    """A process that loads corpora by name."""

    def __init__(self, hub, home, **environment):
        names = ("WIKITEXT_DIR", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        env = {name: value for name, value in os.environ.items() if name not in names}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "LINEAGE_CACHE": str(home / "cache")}
        env |= {"PYTHONIOENCODING": "utf-8", "NO_PROXY": "*", **environment}
        self.hub, self.errors = hub, open(home / "stderr.txt", "w+", encoding="utf-8")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        command = [sys.executable, "-c", CLIENT]
        self.process = subprocess.Popen(command, env=env, cwd=ROOT, encoding="utf-8", **pipes)

    def __enter__(self):
        return self

    def load(self, name, *faults):
        self.hub.log.clear()
        self.hub.faults[:] = map(list, faults)
        self.process.stdin.write(json.dumps(name) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        self.errors.seek(0)
        assert line, self.errors.read()
        self.hub.faults.clear()
        return json.loads(line)

    @property
    def fetched(self):
        """What was fetched: the names of the data files, in order."""
        wanted = re.compile(r"GET /lfs/.*/(\w+)-00000")
        return [found[1] for line in self.hub.log if (found := wanted.match(line))]

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def hub():
    hub = FakeHub().start()
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def loader(hub, tmp_path_factory):
    """One client for the tests that need no fresh one: each has a data set of its own."""
    with Client(hub, tmp_path_factory.mktemp("home")) as one:
        yield one


TEXT = {split: "".join(rows(split)) for split in SPLITS}


def texts(answer):
    assert "error" not in answer, answer
    return {split: answer[split] for split in SPLITS}


def error(answer):
    assert "error" in answer and "\n" not in answer["error"], answer
    return answer["error"]


@pytest.mark.slow
def test_wikitext_comes_from_the_hub_once_and_then_from_the_cache(hub, tmp_path):
    hub.repositories["Salesforce/wikitext"] = dataset("wikitext-2-v1", "wikitext-103-v1")
    hub.repositories["some/tales"] = dataset("old", "new")
    with Client(hub, tmp_path) as one:
        answer = one.load("wikitext-2")
        assert one.fetched == [*SPLITS]
        assert answer["train"].startswith(" \n = Title 0 = \n \n In the train split , 0 . \n")
        assert [line for line in hub.log if "103" in line] == []
        assert texts(one.load("hf:some/tales:new:text")) == TEXT
    with Client(hub, tmp_path) as two:  # the hub is asked whether anything has changed
        assert texts(two.load("wikitext-2")) == texts(answer)
        assert hub.log and not re.search("GET /(datasets|lfs)/", "\n".join(hub.log))
    with Client(hub, tmp_path, HF_HUB_OFFLINE="1") as offline:
        assert texts(offline.load("wikitext-2")) == texts(answer)
        assert texts(offline.load("hf:some/tales:new:text")) == TEXT
        assert texts(offline.load("hf:some/tales:new")) == TEXT
        assert "configuration old" in error(offline.load("hf:some/tales:old:text"))
        assert "cannot be reached" in error(offline.load("hf:some/fables"))
        assert hub.log == []
    hub.stop()
    try:
        with Client(hub, tmp_path) as alone:
            assert texts(alone.load("wikitext-2")) == texts(answer)
            assert texts(alone.load("hf:some/tales:new")) == TEXT
            assert "cannot be reached for Salesforce/wikitext" in error(alone.load("wikitext-103"))
    finally:
        hub.start()


def test_configurations_and_columns(hub, loader):
    hub.repositories |= {"a/one": dataset("only"), "a/two": dataset("small", "large")}
    for name in ("a/one", "a/one:text", "a/one:only", "a/two:large:text"):
        assert texts(loader.load(f"hf:{name}")) == TEXT


REFUSED = {  # name: what is said of it
    "a/two": "a/two has several configurations.*'small', 'large'",
    "a/two:medium": "a/two has several configurations.*'small', 'large'",
    "a/two:medium:text": "a/two has no configuration 'medium'.*'small', 'large'",
    "a/one:only:prose": "column 'prose'.* text",
    "a/one:prose": "column.* 'prose'.* text",
    "a/damaged": "cannot load a/damaged.*[Pp]arquet",
    "nobody/nothing": "no public dataset nobody/nothing.*spelling.*hf auth login",
    "gated/one": "gated/one is gated.*ask for access.*hf auth login",
    "gated/two": "gated/two is gated.*ask for access.*hf auth login",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_does_not_have_or_give_is_one_line(hub, loader, name):
    hub.repositories |= {"a/one": dataset("only"), "a/two": dataset("small", "large")}
    damaged = {"default/test-00000-of-00001.parquet": b"PAR1 and then nothing of the kind"}
    hub.repositories["a/damaged"] = {**dataset("default"), **damaged}
    hub.refused |= {"gated/one": (401, "GatedRepo"), "gated/two": (403, "GatedRepo")}
    assert re.search(REFUSED[name], error(loader.load(f"hf:{name}")))


TRANSIENT = [
    ("HEAD.*README", (429, {"Retry-After": "2"})),
    ("GET.*/tree/", (429, {"RateLimit": '"api";r=0;t=2'})),
    ("GET.*/tree/", 503),
    ("GET.*/tree/", "hang"),
    ("GET /lfs.*train", "hang"),
]


@pytest.mark.parametrize("pattern, fault", TRANSIENT)
def test_a_hub_that_is_unwell_for_a_moment_is_asked_again(hub, loader, pattern, fault):
    name = f"twice/n{len(hub.repositories)}"
    hub.repositories[name] = dataset("default")
    assert texts(loader.load(f"hf:{name}", (pattern, 1, fault))) == TEXT
    assert len([line for line in hub.log if re.search(pattern, line)]) >= 2


LASTING = [
    ("GET.*/revision/", 500, "does not serve {} for now .500"),
    ("GET /lfs.*validation", 500, "does not serve {} for now .500"),
    ("HEAD.*README", "hang", "cannot be reached for {}"),
    ("GET.*/revision/", "hang", "cannot be reached for {}"),
    ("GET.*/tree/", "hang", "cannot be reached for {}"),
    ("GET /lfs.*validation", "hang", "cannot be reached for {}"),
    ("GET /lfs.*validation", (429, {"Retry-After": "1"}), "does not serve {} for now .429"),
    ("HEAD.*README", (429, {"Retry-After": "3600"}), "next 60 minutes .429. for .*{}"),
    ("GET.*/tree/", (429, {"RateLimit": '"api";r=0;t=300'}), "next 5 minutes .429. for .*{}"),
]


@pytest.mark.slow
@pytest.mark.parametrize("pattern, fault, wanted", LASTING)
def test_a_hub_that_stays_unwell_is_one_line(hub, loader, pattern, fault, wanted):
    """And what has come is not fetched again."""
    name = f"always/n{len(hub.repositories)}"
    hub.repositories[name] = dataset("default")
    answer = loader.load(f"hf:{name}", (pattern, 10**6, fault))
    assert re.search(wanted.format(name), error(answer))
    assert sum(answer["pauses"]) < 100  # seconds
    if "lfs" in pattern:
        assert texts(loader.load(f"hf:{name}")) == TEXT
        assert loader.fetched == ["validation", "test"]
