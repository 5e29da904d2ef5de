"""A finished run, opened again to be measured: its settings, its tokenizer, its best weights."""

import contextlib
import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from common.cli import LATER
from common.errors import UserError
from results.tables import ROOT, read_result
from common.training.run import pick_device, read_checkpoint
from common.tokenizers import load_tokenizer_file


@dataclasses.dataclass
class SavedRun:
    folder: Path
    label: str  # the folder's name
    version: str
    module: Any  # the version's script: its Config, LanguageModel, generate
    config: Any
    result: dict
    tokenizer: Any
    model: torch.nn.Module  # on `device`, in evaluation mode
    device: torch.device


def load_script(path):
    """A Python file as a module of its own, read afresh."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_settings(folder):
    """(version, settings) out of a run's config.json. Raises UserError where there is none."""
    path = Path(folder) / "config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        version, settings = saved["version"], LATER | saved["config"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no run in {folder}: make one, python v0.py --out-dir {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read as a run's settings: {error!r}") from None
    if not re.fullmatch(r"v\d+(_\d+)?", str(version)) or not (ROOT / f"{version}.py").exists():
        raise UserError(f"{path} is of a version {version!r}, whose script is not in {ROOT}")
    return version, settings


def open_run(folder, device="auto"):
    """The finished run in `folder` as a SavedRun; the model is built by the version's own script.

    Raises UserError where there is no run, one that is not finished, or files that don't fit.
    """
    folder = Path(folder)
    version, settings = read_settings(folder)
    if not (folder / "result.json").exists():
        raise UserError(
            f"the run in {folder} is not finished; go on with it:"
            f" python {version}.py --resume --out-dir {folder}"
        )
    result = read_result(folder / "result.json")
    module = load_script(ROOT / f"{version}.py")
    names = [field.name for field in dataclasses.fields(module.Config)]
    missing = [name for name in names if name not in settings]
    if missing:
        raise UserError(f"{folder / 'config.json'} lacks {', '.join(missing)}: an older script's?")
    config = module.Config(**{name: settings[name] for name in names})
    tokenizer = load_tokenizer_file(folder / "tokenizer.json")
    checkpoint = read_checkpoint(folder / "best.pt")
    if (checkpoint["version"], checkpoint["tokenizer"]) != (version, tokenizer.sha256):
        raise UserError(f"the weights in {folder} are of another version or vocabulary than it is")
    device = pick_device(device)
    model = module.LanguageModel(config, tokenizer.vocab_size)
    try:
        model.load_state_dict(checkpoint["state"]["model"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / 'best.pt'} doesn't fit {version}.py: {reason}") from None
    label = folder.resolve().name
    return SavedRun(
        folder, label, version, module, config, result, tokenizer, model.to(device).eval(), device
    )


@contextlib.contextmanager
def evaluating(model):
    """Evaluation mode and no gradients for a while; the mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)
