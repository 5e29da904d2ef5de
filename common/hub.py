"""The Hugging Face hub, by its `datasets` library: quiet, and its failures told in one line."""

import contextlib
import os
from pathlib import Path

from common.errors import UserError

SPLITS = ("train", "validation", "test")


def load_dataset(repository, config, data_dir):
    """`datasets.load_dataset`, with its many kinds of failure told in one line."""
    with _quiet_datasets(local=data_dir is not None) as datasets:
        if data_dir is not None:
            return _load_local(datasets, repository, config, Path(data_dir))
        try:
            with _offline_unless(_hub_answers(), datasets):
                return datasets.load_dataset(repository, config)
        except Exception as error:       # the hub's client raises dozens of kinds
            raise _failure(error, repository, config) from None


def _load_local(datasets, repository, config, folder):
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder}: no such folder; it should hold a copy of "
                        f"{repository} as the hub lays it out")
    try:
        # The folder's own files decide, so that a copy without its README will do.
        files = {split: sorted(map(str, (folder / (config or ".")).glob(f"{split}-*.parquet")))
                 for split in SPLITS}
        if any(files.values()):
            files = {split: paths for split, paths in files.items() if paths}
            return datasets.load_dataset("parquet", data_files=files)
        return datasets.load_dataset(str(folder), config)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"--data-dir {folder}: cannot load {config or repository} from it "
                        f"({reason})") from None


def config_names(repository, data_dir):
    with _quiet_datasets(local=data_dir is not None) as datasets:
        try:
            with _offline_unless(data_dir is not None or _hub_answers(), datasets):
                names = datasets.get_dataset_config_names(str(data_dir or repository))
        except Exception as error:
            if data_dir is not None:
                raise UserError(f"--data-dir {data_dir}: {first_line(error)}") from None
            raise _failure(error, repository, None) from None
    folders = [path.name for path in Path(data_dir).iterdir() if path.is_dir()] if data_dir else []
    return [*names, *folders]


def _failure(error, repository, config):
    kind, reason = type(error).__name__, first_line(error)
    if kind == "DatasetNotFoundError":
        return UserError(f"the hub has no public dataset {repository}: check the spelling, or "
                         "log in with `hf auth login` where it is private")
    if isinstance(error, ConnectionError) or "Offline" in kind or "LocalEntry" in kind:
        return UserError(f"the hub cannot be reached for {repository}: check the network, give "
                         "--data-dir a local copy in the hub's layout, or use --data sample")
    what = f"{repository}, configuration {config}" if config else repository
    return UserError(f"cannot load {what} from the hub: {reason}")


def first_line(error) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


@contextlib.contextmanager
def _quiet_datasets(local):
    """Import `datasets` (seconds, so only where it is needed) and keep it to errors.

    A download is slow and keeps its progress bars, a local copy is not.
    """
    import logging

    import datasets

    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    bars = datasets.utils.is_progress_bar_enabled()
    if local:
        datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if bars:
            datasets.enable_progress_bars()


def _hub_answers() -> bool:
    """Does the hub answer at all? Asked first, for its client retries for half a minute."""
    import ssl
    import urllib.error
    import urllib.request

    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True                                     # a refusal is an answer
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)   # the client may know the certificate
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _offline_unless(online, datasets):
    """Without the hub, let its client look into its own cache at once and give up."""
    import huggingface_hub.constants

    places = [datasets.config, huggingface_hub.constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not online
        yield
    finally:
        for place, value in zip(places, before):
            place.HF_HUB_OFFLINE = value
