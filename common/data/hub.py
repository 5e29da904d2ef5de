"""The Hugging Face hub, by its `datasets` library: quiet, and its failures told in one line.

The library keeps whole files in its cache, so whoever tries again fetches only what is missing.
"""

import contextlib
import http.client
import os
import re
import sys
import time
from pathlib import Path

from common.errors import UserError

SPLITS = ("train", "validation", "test")
TIMEOUT = 20  # seconds to wait for one answer; the hub's client would wait for ever
PATIENCE = 60  # seconds without a good answer before giving up
PAUSES = (1, 2, 4, 8)  # seconds before each new attempt at what the client does not retry
# Files come by plain HTTP, where these limits hold; the hub's faster transfer, xet, has its own client
# that knows none. HF_HUB_DISABLE_XET=0 takes it all the same.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


def load_dataset(repository, config, data_dir):
    """`datasets.load_dataset`, with its many kinds of failure told in one line."""
    with _quiet_datasets(local=data_dir is not None) as datasets:
        if data_dir is not None:
            return _load_local(datasets, repository, config, Path(data_dir))
        return _ask_hub(datasets, datasets.load_dataset, repository, config)


def _ask_hub(datasets, function, repository, config=None):
    """function(repository, config) of `datasets`, tried again where the hub is unwell."""
    from huggingface_hub.utils import httpx

    arguments = (repository, config) if config else (repository,)
    for pause in (*PAUSES, None):
        watch.start(repository)
        try:
            with _offline_unless(_hub_answers(), datasets):
                return function(*arguments)
        except UserError:
            raise
        except Exception as error:  # the hub's client raises dozens of kinds
            reason = watch.unwell or isinstance(error, httpx.TransportError) and first_line(error)
            if pause is None or not reason:
                raise _failure(error, repository, config) from None
        print(f"the hub is unwell ({reason}): trying again in {pause} s", file=sys.stderr)
        time.sleep(pause)


class _Watch:
    """Bounds for the hub's client: it would wait for an answer, or before asking again, for ever.

    unwell: the status of the last answer if that was 429 (too many requests) or an error of the
    hub's own, 5xx; otherwise None.
    """

    installed = False

    def start(self, repository):
        """Watch what is asked for this repository from now on."""
        import huggingface_hub
        from huggingface_hub.utils import httpx

        self.repository, self.unwell, self.since = repository, None, None
        if not self.installed:
            hooks = huggingface_hub.get_session().event_hooks  # its own; they stay
            hooks = {
                "request": [*hooks["request"], self._asked],
                "response": [*hooks["response"], self._answered],
            }
            huggingface_hub.set_client_factory(
                lambda: httpx.Client(event_hooks=hooks, follow_redirects=True)
            )
            self.installed = True

    def _asked(self, request):
        now = time.monotonic()
        self.since = self.since or now  # of the first request since the last good answer
        if now - self.since > PATIENCE:
            raise _failure(ConnectionError(), self.repository, None)
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: min(given.get(kind) or TIMEOUT, TIMEOUT)
            for kind in ("connect", "read", "write", "pool")
        }

    def _answered(self, response):
        status = response.status_code
        self.unwell = status if status == 429 or status >= 500 else None
        if not self.unwell:
            self.since = None
        asked = response.headers.get("Retry-After", "") + response.headers.get("RateLimit", "")
        wait = re.search(r"^\d+|(?<=;t=)\d+", asked)
        if self.unwell and wait and int(wait[0]) > PATIENCE:  # the client would sleep so long
            raise UserError(
                f"the hub wants no request for {self.repository} in the next "
                f"{-(-int(wait[0]) // 60)} minutes ({status}): try again then, or "
                "log in with `hf auth login`, which allows more"
            )


watch = _Watch()


def _load_local(datasets, repository, config, folder):
    if not os.path.isdir(folder):  # false for impossible names too
        raise UserError(
            f"--data-dir {folder}: no such folder; it should hold a copy of "
            f"{repository} as the hub lays it out"
        )
    try:
        # The folder's own files decide, so that a copy without its README will do.
        files = {
            split: sorted(map(str, (folder / (config or ".")).glob(f"{split}-*.parquet")))
            for split in SPLITS
        }
        if any(files.values()):
            files = {split: paths for split, paths in files.items() if paths}
            return datasets.load_dataset("parquet", data_files=files)
        return datasets.load_dataset(str(folder), config)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(
            f"--data-dir {folder}: cannot load {config or repository} from it ({reason})"
        ) from None


def has_config(repository, name, data_dir) -> bool:
    """Is `name` a configuration of the dataset? Offline: one of which the cache has a copy?"""
    with _quiet_datasets(local=data_dir is not None) as datasets:
        if data_dir is None:
            return _ask_hub(datasets, _builds, repository, name)
        try:
            names = datasets.get_dataset_config_names(str(data_dir))
            return name in names or Path(data_dir, name).is_dir()
        except Exception as error:
            raise UserError(f"--data-dir {data_dir}: {first_line(error)}") from None


def _builds(repository, name):
    import datasets

    try:
        datasets.load_dataset_builder(repository, name)
    except ValueError as error:
        if isinstance(error, OSError):
            raise
        return False
    return True


def _failure(error, repository, config):
    from huggingface_hub.utils import httpx

    kind, reason = type(error).__name__, first_line(error.__cause__ or error)
    what = f"{repository}, configuration {config}" if config else repository
    if watch.unwell:
        does = "refuses more requests" if watch.unwell == 429 else "has a trouble of its own"
        return UserError(
            f"the hub {does} for now ({watch.unwell}), asked for {repository}: run "
            "this again later, whole files that have been fetched are kept"
        )
    if "is a gated dataset" in reason:
        return UserError(
            f"{repository} is gated: ask for access on its page on the hub, then "
            "log in with `hf auth login`"
        )
    if kind == "DatasetNotFoundError":
        return UserError(
            f"the hub has no public dataset {repository}: check the spelling, or "
            "log in with `hf auth login` where it is private"
        )
    unreachable = isinstance(error, (ConnectionError, httpx.TransportError))
    missing = reason.startswith("Couldn't find cache")  # only ever looked for offline
    if unreachable or missing or "Offline" in kind or "LocalEntry" in kind:
        return UserError(
            f"the hub cannot be reached for {what}: check the network, give "
            "--data-dir a local copy in the hub's layout, or use --data sample"
        )
    if listed := re.search(r"[Aa]vailable(?: configs)?: \[(.*?)\]", str(error)):
        has = f"no configuration {config!r}" if config else "several configurations"
        return UserError(
            f"{repository} has {has}: name one behind a colon, "
            f"hf:{repository}:CONFIG, of {listed[1]}"
        )
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

    from datasets.config import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:  # by the environment variable HF_HUB_OFFLINE
        return False
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # a refusal is an answer
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the client may know the certificate
    except (OSError, ValueError, http.client.HTTPException):
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
