"""The settings that every version has and no lesson changes, and the range of every setting."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from common.errors import UserError


@dataclass
class RunConfig:
    """A script's `Config` inherits these. The comment after a field is its help text."""

    data: str = "sample"  # a corpus by name, hf:OWNER/NAME, or a path: text, tables, a folder
    data_dir: str = ""  # folder with a copy of the hub's dataset; WikiText: or $WIKITEXT_DIR
    tokenizer: str = "bpe"  # bpe, char, word, gpt2, or a saved vocabulary's path
    seed: int = 1  # random seed of the initial parameters, the batches and the samples
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # number format of the training steps
    compile: bool = False  # torch.compile the training steps
    activation_checkpointing: bool = False  # recompute blocks' activations: less memory, slower
    eval_every: int = 0  # steps between evaluations; 0: about ten in all, dense at the start
    out_dir: str = ""  # folder of the run's files; without it runs/VERSION or runs/VERSION-CORPUS
    resume: bool = False  # go on from the checkpoint in out_dir
    sample_only: bool = False  # no training: continue the prompt with the best weights in out_dir
    interactive: bool = False  # as --sample-only, for each prompt that you type
    n_samples: int = 1  # samples that --sample-only prints, of seeds seed, seed + 1, ...
    prompt: str = ""  # the text to continue; without it one that suits the corpus
    max_new_tokens: int = 200  # tokens that are sampled after the prompt, at most

    def __post_init__(self):
        self.sample_only = self.sample_only or self.interactive


# The fields that may change when a run is resumed: none of them changes what has been learned so
# far. With other --steps, though, a schedule goes on along the new length. The text may lie
# elsewhere: its hash has to be the same.
SAFE_TO_CHANGE = frozenset(
    "steps eval_every device data data_dir out_dir resume sample_only interactive n_samples compile"
    " prompt activation_checkpointing max_new_tokens temperature top_k top_p".split()
)

Settings = dict[str, bool | int | float | str | None]  # as a run's files hold them

AT_LEAST_1 = """vocab_size context_length batch_size max_new_tokens n_samples grad_accum n_head
n_embd n_layer n_kv_head stories words processes rounds tokens""".split()  # the last: of others
AT_LEAST_0 = "eval_every steps ngram_rows warmup_steps top_k labels".split()
RATES = "learning_rate muon_learning_rate ngram_learning_rate".split()
DEVICES = "auto, cpu, cuda (or cuda:1, the second one) or mps"
PATTERNS = ("whitespace", "gpt2", "gpt4")
A_PATTERN = f"{', '.join(PATTERNS)} or a regular expression"
RANGES = {  # field: (test, what is wanted); one table, because a field means the same everywhere
    **dict.fromkeys(AT_LEAST_1, (lambda v: v >= 1, "at least 1")),
    **dict.fromkeys(AT_LEAST_0, (lambda v: v >= 0, "at least 0")),
    **dict.fromkeys(RATES, (lambda v: 0 < v <= 1e30, "above 0 and at most 1e30")),
    "seed": (lambda v: 0 <= v < 2**63, "between 0 and 2^63 - 1"),
    "ngram_max": (lambda v: 2 <= v <= 16, "from 2 to 16"),
    "weight_decay": (lambda v: 0 <= v <= 1e30, "at least 0 and at most 1e30"),
    "clip_norm": (lambda v: 0 < v <= 1e30, "above 0 and at most 1e30, which is off"),
    **dict.fromkeys(("dropout", "ngram_dropout"), (lambda v: 0 <= v < 1, "at least 0 and below 1")),
    "rope_base": (lambda v: 1 < v < math.inf, "above 1"),
    "temperature": (lambda v: v == 0 or 0.001 <= v < math.inf, "0 (greedy) or at least 0.001"),
    "each": (lambda v: v >= 2, "at least 2"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1 (1 is off)"),
    "device": (lambda v: re.fullmatch(r"auto|(cpu|cuda|mps)(:\d{1,3})?", v), DEVICES),
    "data": (lambda v: v != "", "a corpus' name or a path"),
    "split_pattern": (lambda v: v in PATTERNS or not re.fullmatch(r"[\w-]*", v), A_PATTERN),
    "tokenizer": (lambda v: v != "", "bpe, char, word, gpt2 or a saved vocabulary's path"),
}
# No size in a laptop's run comes near; larger ones are slips of the keyboard.
LARGEST = {"n_layer": 1000, "processes": 1000, "ngram_rows": 2**26}
LARGEST |= dict.fromkeys("n_head n_embd batch_size stories each".split(), 2**16)
LARGEST_OTHER = 2**31


def check_settings(values):
    """Raise UserError if a value of a dictionary of settings, or one of several in a tuple, is
    outside its range."""
    for name, value in values.items():
        for one in value if isinstance(value, tuple) else (value,):
            _check(name, one)


def _check(name, value):
    flag = "--" + name.replace("_", "-")
    test, wanted = RANGES.get(name, (lambda v: True, ""))
    try:
        inside = test(value)
    except TypeError:  # a text where a number belongs, in a file
        raise UserError(f"{name} is {value!r:.40}") from None
    if not inside:
        raise UserError(f"{flag} {value!r}: it has to be {wanted}")
    largest = LARGEST.get(name, LARGEST_OTHER)
    if isinstance(value, int) and name != "seed" and value > largest:
        raise UserError(f"{flag} {value}: that is too large; the limit is {largest}")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise UserError(f"{flag}: the text holds a NUL character, or bytes that are not UTF-8")


def refuse_other_run(path, found, own):
    """Raise UserError where the file at `path` is of another run than the folder: found and own are
    (version, settings) of both. The settings that may change when a run is resumed decide nothing.
    """
    found, own = ({"version": name, **settings} for name, settings in (found, own))
    changed = [k for k in own if k not in SAFE_TO_CHANGE and found.get(k) != own[k]]
    if changed:
        what = ", ".join(f"{k} is {found.get(k)!r:.40}, not {own[k]!r:.40}" for k in changed[:4])
        advice = "Leave flags out that differ, put the folder's own file back, or train again"
        raise UserError(f"{path} is of another run: {what}. {advice} in another --out-dir")
