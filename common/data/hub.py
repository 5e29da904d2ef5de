"""Datasets of the Hugging Face hub, by its `datasets` library: quiet, failures in one line.

The library keeps whole files in its cache, so trying again fetches only what is missing.
"""

import os
import re
from pathlib import Path

from common.data.corpus import SPLITS, Corpus
from common.data.own_text import SPLIT_OF, split_corpus
from common.data.tables import ROWS, Rows
from common.errors import UserError, reason_of

TIMEOUT = 10  # seconds to wait for one answer; the client asks six times before it gives up
PATIENCE = 60  # seconds that the hub may make the client wait where there are too many requests
# Files come by plain HTTP, where these limits hold: the newer protocol's client has none.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

# OWNER/NAME, CONFIG and COLUMN; a path upwards would leave the hub's folder or data_dir.
DOWN = r"(?!\.\.?(?:[/:]|$))"
NAME = re.compile(rf"hf:({DOWN}[\w.-]+/{DOWN}[\w.-]+)(?::({DOWN}[^:/\\]*))?(?::({DOWN}[^:/\\]*))?")


def hub_corpus(name, data_dir) -> Corpus:
    """hf:OWNER/NAME[:CONFIG][:COLUMN], any dataset on the hub that has a column of text."""
    match = NAME.fullmatch(name)
    if not match:
        raise UserError(f"{name!r} is not hf:OWNER/NAME[:CONFIG][:COLUMN]: check the spelling")
    repository, config, column = match.groups("")
    try:
        splits = load_dataset(repository, config or None, data_dir)
    except NoConfiguration:
        if column or not config:
            raise
        column = config  # one word after the name may be either
        splits = load_dataset(repository, None, data_dir)
    datasets = {SPLIT_OF[key.lower()]: splits[key] for key in splits if key.lower() in SPLIT_OF}
    if "train" not in datasets:
        if len(splits) > 1:
            raise UserError(f"{name} has no split called train, only {', '.join(splits)}")
        datasets = {"train": next(iter(splits.values()))}
    reader = rows_of(name, datasets, column)
    notes = reader.check(["train"])
    if any(reader.column not in dataset.column_names for dataset in datasets.values()):
        raise UserError(f"{name}: not every split has the column {reader.column!r}")
    prints = " ".join(datasets[split]._fingerprint for split in sorted(datasets))
    memo = f"hub 1 {prints} {reader.column}"  # another number where the cut changes
    return split_corpus(name, {split: [split] for split in datasets}, reader, notes, memo)


def rows_of(name, datasets, column) -> Rows:
    """A reader of some datasets, split -> `datasets.Dataset`; its sources are the splits."""

    def read_rows(split, column, start):
        rows = datasets[split].skip(start).with_format("arrow")
        rows = rows.select_columns([column]) if column else rows
        try:
            for batch in rows.iter(ROWS):
                yield from batch.to_pylist()
        except UnicodeDecodeError:
            raise UserError(f"{name}, {split}: a text is not UTF-8") from None

    return Rows(read_rows, lambda split: len(datasets[split]), column, name)


class NoConfiguration(UserError):
    """The dataset has no configuration of that name, or has several and none was named."""


def load_dataset(repository, config, data_dir):
    """`datasets.load_dataset` from the hub, or from a folder in the hub's layout.

    The library is imported only here because that takes seconds; its errors become UserErrors.
    A download shows its progress bars, a local copy none.
    """
    if data_dir is not None and not os.path.isdir(data_dir):  # false for impossible names too
        raise UserError(f"--data-dir {data_dir}: no such folder; it should hold {repository}")
    import datasets

    datasets.logging.set_verbosity_error()
    _limit_waiting()
    try:
        if data_dir is None:
            return datasets.load_dataset(repository, config)
        datasets.disable_progress_bars()
        # The folder's own files decide, so that a copy without its README will do.
        folder = Path(data_dir, config or ".")
        files = {split: sorted(map(str, folder.glob(f"{split}-*.parquet"))) for split in SPLITS}
        files = {split: paths for split, paths in files.items() if paths}
        if files:
            return datasets.load_dataset("parquet", data_files=files)
        return datasets.load_dataset(str(data_dir), config)
    except UserError:
        raise
    except Exception as error:  # these libraries raise dozens of kinds
        no_such = isinstance(error, ValueError) and not isinstance(error, OSError)
        kind = NoConfiguration if no_such else UserError
        raise kind(_meaning(error, repository, config, data_dir)) from None


def _limit_waiting():
    """Set limits to the hub's client: for an answer, and for a pause that the hub asks for."""
    import huggingface_hub
    from huggingface_hub.utils import httpx

    own = huggingface_hub.get_session().event_hooks["request"]
    hooks = {"request": list({*own, _limit_time}), "response": [_limit_pause]}
    options = {"event_hooks": hooks, "follow_redirects": True}
    huggingface_hub.set_client_factory(lambda: httpx.Client(**options))


def _limit_time(request):
    """Some of the client's requests would wait for an answer without end."""
    request.extensions["timeout"] = dict.fromkeys("connect read write pool".split(), TIMEOUT)


def _limit_pause(response):
    """The client sleeps for as long as the hub asks it to, be it an hour."""
    pause = response.headers.get("Retry-After", "") + response.headers.get("RateLimit", "")
    wait = re.search(r"^\d+|(?<=;t=)\d+", pause)
    if response.status_code == 429 and wait and int(wait[0]) > PATIENCE:
        busy = f"the hub wants no more requests in the next {-(-int(wait[0]) // 60)} minutes (429)"
        raise UserError(f"{busy} for {response.url.path}: try again then, or `hf auth login`")


FAILURES = {  # what an error's kinds and words hold: what it means. The first that fits counts.
    "is a gated dataset": "{name} is gated: ask for access on its page, then `hf auth login`",
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


def _meaning(error, name, config, data_dir):
    """What an error of the library means, in one line."""
    what = f"{name}, configuration {config}" if config else name
    reason = reason_of(error.__cause__ or error)
    if data_dir is not None:
        return f"--data-dir {data_dir}: cannot load {config or name} from it ({reason:.300})"
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    configs = f"no configuration {config!r}" if config else "several configurations"
    for pattern, meaning in FAILURES.items():
        if match := re.search(pattern, f"{kinds} {error} {error.__cause__}"):
            found = match[match.re.groups]
            return meaning.format(name=name, what=what, config=configs, found=found)
    return f"cannot load {what} from the hub: {reason:.300}"
