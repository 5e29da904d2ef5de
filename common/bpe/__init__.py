"""The fast layer under bpe_tokenizer.py: the results of its plain definitions, many times faster.

cut.py        pre-tokenization: most of it by a simpler pattern than the vocabulary's own
merge.py      merging one pair at all its places at once, with numpy
train.py      counting chunks, and choosing merges without counting all pairs each time
encode.py     all distinct chunks of a block merged together, remembered
processes.py  the same by several processes
checks.py     the error, and checks of what callers and files hand over
convert.py    from and to tiktoken and Hugging Face's tokenizers
"""

import importlib

from common.bpe.checks import TokenizerError, check_special_tokens, check_text
from common.bpe.cut import PreTokenizer

__all__ = ["PreTokenizer", "TokenizerError", "check_special_tokens", "check_text"]


def __getattr__(name):
    """The modules `train`, `encode` and `convert` are imported when they are first used."""
    if name not in ("train", "encode", "convert"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
