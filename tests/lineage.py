"""For the tests of the scripts: the versions as modules, small settings, a run in this process."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the models here are tiny: a second thread only gets in the way
# For GLIBC_TUNABLES: a heap with few holes; common/memory.py has the reasons.
UNCACHED = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from results.store import versions

VERSIONS = versions()

SMALL = {
    "vocab_size": 300,
    "context_length": 16,
    "batch_size": 4,
    "grad_accum": 2,
    "n_head": 2,
    "n_embd": 16,
    "n_layer": 2,
    "warmup_steps": 2,
    "steps": 12,
    "eval_every": 4,
    "max_new_tokens": 8,
    "prompt": "The",
    "device": "cpu",
}


def machine(device="cpu"):
    """What a benchmark's numbers belong to."""
    from common.training.run import processor

    n = torch.get_num_threads()
    on = f"{processor()}, {n} thread{'s' * (n > 1)}, torch {torch.__version__}"
    if device != "cuda":
        return on
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(ask, capture_output=True, encoding="utf-8", check=True).stdout.split()
    driver = f"driver {driver[0]}, CUDA {torch.version.cuda}"
    on = f"{torch.cuda.get_device_name()}, {driver}, {on}"
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = next(line.partition("==")[2] for line in lines if line.startswith("torch=="))
    other = torch.__version__.partition("+")[0] != pinned
    return on + f"\n(another torch than the {pinned} of requirements.txt)" * other


def load(version):
    """The script as a module, read afresh."""
    spec = importlib.util.spec_from_file_location(version, ROOT / f"{version}.py")
    module = sys.modules[version] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(module, **changes):
    """A Config for small and quick models; fields that the version lacks are left out."""
    fields = module.Config.__dataclass_fields__
    values = {**SMALL, **({"batch_size": 1} if module.__name__ == "v0" else {}), **changes}
    return module.Config(**{name: value for name, value in values.items() if name in fields})


def model_of(module, vocab_size=50, **changes):
    torch.manual_seed(0)
    config = small(module, **changes)
    return module.LanguageModel(config, vocab_size), config


def flags(module, **values):
    """Small settings and `values` as command-line arguments."""
    config = small(module, **values)
    changed = {name: getattr(config, name) for name in {**SMALL, **values} if hasattr(config, name)}
    args = []
    for name, value in changed.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            args += [flag] if value else []
        else:
            args += [flag, str(value)]
    return args


def run(module, monkeypatch, args):
    """Run the script's main() in this process with these arguments."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
    module.main()


def finished_run(version, folder, **changes):
    """A run of the small model on a small text, finished, in `folder`: the folder."""
    module = load(version)
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder.parent.mkdir(parents=True, exist_ok=True)
        text = story_file(folder.parent)
        run(module, monkeypatch, flags(module, data=text, out_dir=folder, **changes))
    return folder


def edit_json(path, **changes):
    """Change entries of a JSON file's object, without its checksum; those of its `config` with a
    dictionary."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("checksum", None)
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content), encoding="utf-8")


def story_file(folder, stories=60):
    """A small text to train on, in `folder`: lines of words, the same on every machine."""
    words = "the key cup lamp is was in on red old tin Anna Tom said gave took found house".split()
    state, lines = 1, []
    for _ in range(stories):
        line = []
        for _ in range(12):
            state = state * 48271 % 2147483647
            line.append(words[state % len(words)])
        lines.append(" ".join(line).capitalize() + ".")
    path = Path(folder) / "story.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path
