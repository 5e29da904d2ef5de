"""The fast layer under bpe_tokenizer.py: the results of its plain definitions, many times sooner.

cut.py      pre-tokenization: most of it by a simpler pattern than the vocabulary's own
merge.py    merging one pair at all its places at once, with numpy
train.py    counting chunks, and choosing merges without counting all pairs each time
encode.py   all distinct chunks of a block merged together, remembered; several processes
convert.py  from and to tiktoken and Hugging Face's tokenizers
"""

from common.bpe import convert
from common.bpe.checks import TokenizerError, check_special_tokens, check_text
from common.bpe.convert import read_vocabulary
from common.bpe.cut import PreTokenizer
from common.bpe.encode import Encoder
from common.bpe.train import count_chunks, train_merges

__all__ = [
    "Encoder",
    "PreTokenizer",
    "TokenizerError",
    "check_special_tokens",
    "check_text",
    "convert",
    "count_chunks",
    "read_vocabulary",
    "train_merges",
]
