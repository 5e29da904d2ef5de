"""What the tests share: the repository on the path, a cache of their own, and WikiText."""

import os
import sys
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """One cache for all tests of a run, so that no test finds or leaves files in data/cache."""
    before = os.environ.get("LINEAGE_CACHE")
    os.environ["LINEAGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield Path(os.environ["LINEAGE_CACHE"])
    if before is None:
        del os.environ["LINEAGE_CACHE"]
    else:
        os.environ["LINEAGE_CACHE"] = before


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for one test, in which its cache lies too."""
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def wikitext_dir():
    """A folder with WikiText as the hub lays it out, or None where the hub itself answers.

    Hand it to load_corpus as data_dir. Skips where there is neither.
    """
    folder = os.environ.get("WIKITEXT_DIR")
    if folder:
        if not Path(folder, "wikitext-2-v1").is_dir():
            pytest.skip(f"WIKITEXT_DIR={folder} has no folder wikitext-2-v1")
        return folder
    try:
        page = "https://huggingface.co/api/datasets/Salesforce/wikitext"
        urllib.request.urlopen(page, timeout=3).close()
    except (OSError, ValueError) as error:
        pytest.skip(f"no WikiText: WIKITEXT_DIR is not set and the hub does not answer ({error})")
    return None
