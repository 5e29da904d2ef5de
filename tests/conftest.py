"""What all tests share: a known environment, a cache of their own, WikiText.

Run `python -m pytest` for the quick tests, `python -m pytest -m ""` for all. With
HYPOTHESIS_PROFILE=large the properties are tried on many more examples.
"""

import os
import shutil
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
# What these hold decides nothing, neither here nor in the processes that tests start.
FOREIGN = """PYTHONPATH PYTHONWARNINGS PYTHONIOENCODING LANGUAGE OMP_WAIT_POLICY GOMP_SPINCOUNT
GLIBC_TUNABLES MALLOC_MMAP_THRESHOLD_ WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR
MASTER_PORT TORCHELASTIC_RESTART_COUNT HF_HUB_OFFLINE HF_DATASETS_OFFLINE TRANSFORMERS_OFFLINE
FORCE_COLOR"""

settings.register_profile("small", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("large", max_examples=1000, deadline=None)


def pytest_configure(config):
    """Before torch and the hub's client are imported, which read some of these variables."""
    for name in FOREIGN.split():
        os.environ.pop(name, None)
    # One thread: the models here are tiny, and each core has a worker of its own.
    os.environ.update(LC_ALL="C.UTF-8", OMP_NUM_THREADS="1", COLUMNS="100")
    for name in ("SIGINT", "SIGHUP"):  # ignored in the background: runs would be, too
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_IGN:
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, default)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "small"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A worker for each core that this process may use, and two at least."""
    affinity = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count() or 1))
    return max(2, len(affinity(0)))


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """One cache for all tests of a run, so that no test finds or leaves files in data/cache."""
    os.environ["LINEAGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    """A small run spends half of its time on loss.png: here it is a file of a few bytes."""
    if summary := sys.modules.get("common.training.summary"):
        monkeypatch.setattr(summary, "draw_loss", lambda metrics, path, *_: path.write(b"\x89PNG"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for one test, in which its cache lies too."""
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def train(cache, capsys):
    """(version or module, **settings) -> (folder, standard output, standard error) of a run."""
    from lineage import finished_run

    def trained(version, name="a run", **changes):
        return finished_run(version, cache / name, **changes), *capsys.readouterr()

    return trained


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder that stands in this project's place for all of results/."""
    for name, module in list(sys.modules.items()):
        if name.startswith("results.") and hasattr(module, "ROOT"):
            monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def project(elsewhere):
    """That folder with the versions' scripts and what is known of the sample, and no results."""
    for path in [*ROOT.glob("v*.py"), ROOT / "data" / "input.json"]:
        (elsewhere / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, elsewhere / path.relative_to(ROOT))
    (elsewhere / "README.md").touch()
    return elsewhere


@pytest.fixture(scope="session")
def finished_v3(tmp_path_factory):
    """The folder of a small finished run of v3, which no test may change."""
    from lineage import finished_run

    return finished_run("v3", tmp_path_factory.mktemp("finished") / "v3", context_length=64)


@pytest.fixture
def copy_of_v3(finished_v3, tmp_path):
    """The folder of a copy of that run, which a test may change."""
    return Path(shutil.copytree(finished_v3, tmp_path / "v3"))


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
