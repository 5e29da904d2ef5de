"""Datasets of the Hugging Face hub, by its `datasets` library: quiet, failures in one line.

The library keeps whole files in its cache, so trying again fetches only what is missing.
"""

import contextlib
import os
import re
from pathlib import Path

from common.data import tables
from common.data.corpus import SPLITS, Corpus
from common.data.own_text import SPLIT_NAMES, Rows, all_splits
from common.errors import UserError

TIMEOUT = 10  # seconds to wait for one answer; the client asks six times before it gives up
PATIENCE = 60  # seconds that the hub may make the client wait where there are too many requests
# Files come by plain HTTP, where these limits hold: the newer protocol's client has none.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


def hub_corpus(name, data_dir) -> Corpus:
    """hf:OWNER/NAME[:CONFIG][:COLUMN], any dataset on the hub that has a column of text."""
    repository, *rest = name[len("hf:") :].split(":")
    parts = [*repository.split("/"), *rest]  # a path upwards would leave the hub's or data_dir
    escapes = any(part in (".", "..") or re.search(r"[/\\]", part) for part in parts)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or len(rest) > 2 or escapes:
        raise UserError(
            f"{name!r} is not hf:OWNER/NAME[:CONFIG][:COLUMN], for instance"
            " hf:roneneldan/TinyStories"
        )
    config, column = (rest + ["", ""])[:2]
    if config and not column and not has_config(repository, config, data_dir):
        config, column = "", config  # one word after the name may be either
    splits = load_dataset(repository, config or None, data_dir)
    found = {split: key for split in SPLITS for key in splits if key.lower() in SPLIT_NAMES[split]}
    if "train" not in found:
        if len(splits) > 1:
            raise UserError(f"{name} has no split called train, only {', '.join(splits)}")
        found = {"train": next(iter(splits))}
    data = {split: splits[key] for split, key in found.items()}
    n_rows = min(tables.SAMPLE, len(data["train"]))
    sample = list(_rows(data["train"], 0, n_rows, name))
    column, note = tables.choose_column(sample, column, name)
    if any(column not in table.column_names for table in data.values()):
        raise UserError(f"{name}: not every split has the column {column!r}")
    parts = {split: [(split, 0, len(table))] for split, table in data.items()}
    ranges, cut = all_splits(parts, Rows(), name)

    def read(split):
        for source, start, end in ranges[split]:
            yield from texts_of(data[source], column, start, end, name)

    prints = " ".join(data[split]._fingerprint for split in sorted(data))
    about, memo = "; ".join(filter(None, [note, cut])), f"hub {prints} {column} {ranges}"
    return Corpus(name, documents=True, read=read, about=about, memo=memo)


def texts_of(table, column, start, end, name):
    """The texts in a column of a dataset, rows start to end; None for a row without text."""
    for row in _rows(table.select_columns([column]), start, end, name):
        yield tables.text_of(row, column, name)


def _rows(table, start, end, name):
    table = table.with_format("arrow")
    for first in range(start, end, tables.ROWS):
        try:
            yield from table[first : min(first + tables.ROWS, end)].to_pylist()
        except ValueError:
            columns = ", ".join(table.column_names)
            raise UserError(f"{name}: a text in column {columns} is not UTF-8") from None


def load_dataset(repository, config, data_dir):
    """`datasets.load_dataset` from the hub, or from a folder in the hub's layout."""
    with _datasets(repository, config, data_dir) as datasets:
        if data_dir is None:
            return datasets.load_dataset(repository, config)
        # The folder's own files decide, so that a copy without its README will do.
        folder = Path(data_dir, config or ".")
        files = {split: sorted(map(str, folder.glob(f"{split}-*.parquet"))) for split in SPLITS}
        files = {split: paths for split, paths in files.items() if paths}
        if files:
            return datasets.load_dataset("parquet", data_files=files)
        return datasets.load_dataset(str(data_dir), config)


def has_config(repository, name, data_dir) -> bool:
    """Is `name` a configuration of the dataset? Offline: one of which the cache has a copy?"""
    with _datasets(repository, None, data_dir) as datasets:
        if data_dir is not None:
            names = datasets.get_dataset_config_names(str(data_dir))
            return name in names or Path(data_dir, name).is_dir()
        try:
            datasets.load_dataset_builder(repository, name)
        except ValueError as error:
            if isinstance(error, OSError):
                raise
            return False
        return True


@contextlib.contextmanager
def _datasets(repository, config, data_dir):
    """The library, imported only here because that takes seconds; its errors become UserErrors.

    A download keeps its progress bars, a local copy shows none.
    """
    if data_dir is not None and not os.path.isdir(data_dir):  # false for impossible names too
        raise UserError(
            f"--data-dir {data_dir}: no such folder; it should hold a copy of {repository} as the"
            " hub lays it out"
        )
    import datasets
    import huggingface_hub
    from huggingface_hub.utils import httpx

    datasets.logging.set_verbosity_error()
    bars = datasets.utils.is_progress_bar_enabled()
    if data_dir is not None:
        datasets.disable_progress_bars()
    hooks = huggingface_hub.get_session().event_hooks
    if _limit_time not in hooks["request"]:
        hooks = {"request": [*hooks["request"], _limit_time], "response": [_limit_pause]}
        options = {"event_hooks": hooks, "follow_redirects": True}
        huggingface_hub.set_client_factory(lambda: httpx.Client(**options))
    try:
        yield datasets
    except UserError:
        raise
    except Exception as error:  # these libraries raise dozens of kinds
        if data_dir is not None:
            raise UserError(
                f"--data-dir {data_dir}: cannot load {config or repository} from it"
                f" ({first_line(error.__cause__ or error)})"
            ) from None
        raise _failure(error, repository, config) from None
    finally:
        if bars:
            datasets.enable_progress_bars()


def _limit_time(request):
    """Some of the client's requests would wait for an answer without end."""
    given = request.extensions.get("timeout", {})
    kinds = ("connect", "read", "write", "pool")
    limits = {kind: min(given.get(kind) or TIMEOUT, TIMEOUT) for kind in kinds}
    request.extensions["timeout"] = limits


def _limit_pause(response):
    """The client sleeps for as long as the hub asks it to, be it an hour."""
    pause = response.headers.get("Retry-After", "") + response.headers.get("RateLimit", "")
    wait = re.search(r"^\d+|(?<=;t=)\d+", pause)
    if response.status_code == 429 and wait and int(wait[0]) > PATIENCE:
        raise UserError(
            f"the hub wants no more requests in the next {-(-int(wait[0]) // 60)} minutes (429) for"
            f" {response.url.path}: try again then, or log in with `hf auth login`"
        )


FAILURES = {  # what an error's kinds and words hold: what it means. The first that fits counts.
    "is a gated dataset": "{name} is gated: ask for access on its page on the hub, then log in with"
    " `hf auth login`",
    "DatasetNotFoundError": "the hub has no public dataset {name}: check the spelling, or log in"
    " with `hf auth login` where it is private",
    r"[Aa]vailable(?: configs)?: \[(.*?)\]": "{name} has {config}: name one after a colon,"
    " hf:{name}:CONFIG, of {found}",
    r"error '(429|5\d\d)": "the hub does not serve {name} for now ({found}): run this again later,"
    " files that have been fetched are kept",
    "ConnectionError|TransportError|Offline|LocalEntry|find cache|check your connection": "the hub"
    " cannot be reached for {what}: check the network, give --data-dir a local copy in the hub's"
    " layout, or use --data sample",
}


def _failure(error, name, config):
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    words = {
        "name": name,
        "what": f"{name}, configuration {config}" if config else name,
        "config": f"no configuration {config!r}" if config else "several configurations",
    }
    for pattern, meaning in FAILURES.items():
        if match := re.search(pattern, f"{kinds} {error} {error.__cause__}"):
            return UserError(meaning.format(found=match[match.re.groups], **words))
    reason = first_line(error.__cause__ or error)
    return UserError(f"cannot load {words['what']} from the hub: {reason}")


def first_line(error) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
