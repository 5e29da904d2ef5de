"""Byte-level byte-pair encoding (BPE) from scratch.

A language model reads numbers, so text must become numbers first. BPE (Sennrich et al., 2016,
"Neural Machine Translation of Rare Words with Subword Units"; on bytes: Radford et al., 2019)
starts with the 256 bytes, which can spell any text, and adds one new token at a time:

    train    Pre-tokenization: cut the text into chunks (words, roughly) by a split pattern, so that
             no token crosses from one word into the next. Count every pair of neighbouring tokens.
             Merge the most frequent pair into one new token, everywhere. Repeat.
    encode   Cut the text into chunks by the same pattern, and make the same merges again in the
             order in which they were learned.
    decode   Put the tokens' bytes end to end.

    tokenizer = BPETokenizer.train(text, vocab_size=4096)
    ids = tokenizer.encode("The cat sat.")
    tokenizer.decode(ids)

Ids: 0 to 255 are the bytes, the merge of rank r is id 256 + r, special tokens come last. The order
of merges is total: the highest count goes first, and of equal counts the smaller pair of ids. A
count is the number of places where the two are side by side ("aaa" holds two pairs of a's). So the
same text always gives the same vocabulary, on any machine.

The functions before the class are the whole method. common/bpe finds the same results many times
faster; copied alone, the class works, slowly, but to_…, from_… and the command line do not.
"""

import functools
import hashlib
import json
import operator
import runpy
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex

try:
    import common.bpe as fast
    from common.bpe import TokenizerError, check_special_tokens, check_text
    from common.files import atomic_write
except ModuleNotFoundError as error:  # this file alone, in a folder of its own
    if not error.name.startswith("common"):
        raise
    fast, TokenizerError, check_special_tokens, check_text = None, ValueError, list, str
    atomic_write = functools.partial(open, encoding="utf-8", newline="\n")

# Split patterns. Every character is in exactly one chunk. GPT-2's chunks are contractions; words,
# numbers and punctuation, each with a space before it if there is one; and the white space left.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-4's (cl100k, in tiktoken's spelling of 2024): numbers of up to three digits, contractions in
# capitals too, a word may take one sign or space before it, no line end; line ends stay together.
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
# White space only. Punctuation stays in its word: "end", "end." and "end," are three chunks.
WHITESPACE_PATTERN = r" ?\S+|\s+(?!\S)|\s+"
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "whitespace": WHITESPACE_PATTERN}

END_OF_TEXT = "<|endoftext|>"
MAX_VOCAB_SIZE, MAX_VOCAB_BYTES = 2**20, 2**26  # 40 merges can make a token of a terabyte


def split(text, pattern, timeout=None):
    """Pre-tokenization: the chunks of a text, a list of strings which end to end are the text. What
    the pattern does not match becomes a chunk as well. TimeoutError after `timeout` seconds."""
    chunks, end = [], 0
    for match in regex.finditer(pattern, text, timeout=timeout):
        if match.group():
            chunks += [text[end : match.start()], match.group()]
            end = match.end()
    chunks = [chunk for chunk in [*chunks, text[end:]] if chunk]
    if "".join(chunks) != text:
        raise TokenizerError(f"the split pattern {pattern!r:.60} does not match from left to right")
    return chunks


def count_pairs(chunks):
    """Counter: pair of neighbouring ids -> how often it occurs in chunks, each (ids, count)."""
    pair_counts = Counter()
    for ids, count in chunks:
        for pair in pairwise(ids):
            pair_counts[pair] += count
    return pair_counts


def merge_pair(ids, pair, new):
    """The list of ids with `new` in place of each such pair, from left to right."""
    merged = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new
        else:
            merged.append(i)
    return merged


def train_plainly(chunk_counts, n_merges):
    """The first n_merges merges for {chunk (string): count}, a list of pairs of ids; fewer if the
    pairs run out."""
    chunks = [(list(chunk.encode("utf-8")), count) for chunk, count in chunk_counts.items()]
    merges = []
    while len(merges) < n_merges and (pair_counts := count_pairs(chunks)):
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
        chunks = [(merge_pair(ids, best, 256 + len(merges)), count) for ids, count in chunks]
        merges.append(best)
    return merges


def encode_plainly(chunk, ranks):
    """The ids of one chunk (a string), given {pair: rank}: make the merges in the order in which
    they were learned, until no two neighbours were ever merged."""
    ids = list(chunk.encode("utf-8"))
    while len(ids) > 1:
        earliest = min(pairwise(ids), key=lambda pair: ranks.get(pair, len(ranks)))
        if earliest not in ranks:
            break
        ids = merge_pair(ids, earliest, 256 + ranks[earliest])
    return ids


class BPETokenizer:
    """A byte-level BPE vocabulary. Whatever is wrong is a TokenizerError, one line.

    merges          list of (first id, second id) in rank order; rank r makes id 256 + r
    vocab           list of bytes, by id; special tokens are their spelling
    special_tokens  dict, spelling -> id; they come last
    pattern         the split pattern, a regular expression
    end_of_text     the id of <|endoftext|>, or None
    dtype           the smallest unsigned numpy type that holds every id
    sha256          hex digest of all that decides the ids: pattern, merges, special tokens
    """

    kind = "bpe"
    lossless = True  # decode(encode(text)) is text

    def __init__(self, merges=(), pattern=GPT4_PATTERN, special_tokens=(END_OF_TEXT,)):
        """From merges and the spellings of the special tokens, in the order of their ids."""
        specials, self.pattern = check_special_tokens(special_tokens), pattern
        self.vocab, self._ranks, size = [bytes([i]) for i in range(256)], {}, 256
        for rank, pair in enumerate(merges):
            a, b = map(operator.index, pair)
            if not (0 <= a < 256 + rank and 0 <= b < 256 + rank) or (a, b) in self._ranks:
                raise TokenizerError(f"merge {rank}, ({a}, {b}), comes twice or too early")
            size += len(self.vocab[a]) + len(self.vocab[b])
            if rank >= MAX_VOCAB_SIZE - 256 - len(specials) or size > MAX_VOCAB_BYTES:
                raise TokenizerError(f"too many or too long tokens at merge {rank}")
            self._ranks[a, b] = rank
            self.vocab.append(self.vocab[a] + self.vocab[b])
        self.merges = list(self._ranks)
        self.special_tokens = {name: len(self.vocab) + i for i, name in enumerate(specials)}
        self.vocab += [name.encode("utf-8") for name in specials]
        self.vocab_size = len(self.vocab)
        self.dtype = np.min_scalar_type(self.vocab_size - 1)
        self.end_of_text = self.special_tokens.get(END_OF_TEXT)
        content = json.dumps([pattern, self.merges, specials]).encode("ascii")
        self.sha256 = hashlib.sha256(content).hexdigest()
        if fast:
            splitter = fast.PreTokenizer(pattern, pattern in PATTERNS.values(), split)
            self._encoder = fast.encode.Encoder(self.merges, splitter, self.dtype, self.end_of_text)

    @classmethod
    def train(
        cls, text, vocab_size, pattern=GPT4_PATTERN, special_tokens=(END_OF_TEXT,), progress=False
    ):
        """Learn a vocabulary of `vocab_size` ids, special tokens counted.

        `text` is a string or an iterable of strings, which is read once; no token crosses from one
        string into the next. The spelling of a special token in it is ordinary text. A text too
        short for so many merges gives a smaller vocabulary. Memory: see common/bpe/train.py.
        """
        specials = check_special_tokens(special_tokens)
        smallest = 256 + len(specials)
        if not hasattr(vocab_size, "__index__") or not smallest <= vocab_size <= MAX_VOCAB_SIZE:
            right = f"a whole number from {smallest} to {MAX_VOCAB_SIZE}"
            raise TokenizerError(f"vocab_size has to be {right}, not {vocab_size!r:.40}")
        if fast:
            splitter = fast.PreTokenizer(pattern, pattern in PATTERNS.values(), split)
            counts = fast.train.count_chunks(documents(text), splitter, progress)
            merges = fast.train.train_merges(counts, vocab_size - smallest, progress)
        else:
            counts = Counter(chunk for part in documents(text) for chunk in split(part, pattern))
            merges = train_plainly(counts, vocab_size - smallest)
        return cls(merges, pattern, specials)

    def encode(self, text, allowed_special=()):
        """The ids of a text, a list of ints. The spelling of a special token is ordinary text
        unless it is allowed: `allowed_special` is a collection of spellings, or "all"."""
        allowed = set(self.special_tokens if allowed_special == "all" else allowed_special)
        if not allowed <= self.special_tokens.keys():
            raise TokenizerError(f"allowed_special {allowed_special!r:.60}: no such special token")
        # The longest spelling first, where one begins with another.
        spellings = "|".join(sorted(map(regex.escape, allowed), key=len, reverse=True))
        parts = regex.split(f"({spellings})", check_text(text)) if allowed else [check_text(text)]
        ids = []
        for part in parts:
            if part in allowed:
                ids.append(self.special_tokens[part])
            elif fast:
                ids += self._encoder.encode(part)
            else:
                for chunk in split(part, self.pattern):
                    ids += encode_plainly(chunk, self._ranks)
        return ids

    def encode_corpus(self, text_or_chunks, processes=None, end_of_text=False):
        """The ids of a whole corpus: a numpy array of type `dtype`, shape (number of tokens,).

        A string, or an iterable of strings: each is a document, encoded on its own, and followed
        by the id of <|endoftext|> if `end_of_text` is true. Up to `processes` share the work, which
        pays from some tens of megabytes on.
        """
        parts = list(self.encode_stream(text_or_chunks, processes, end_of_text))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        """Like encode_corpus, but an iterator of arrays, in order, which takes strings from the
        iterable as it needs them, in bounded memory: see common/bpe/encode.py."""
        processes = 1 if processes is None else processes
        if not hasattr(processes, "__index__") or processes < 1:
            raise TokenizerError(f"processes has to be at least 1, not {processes!r:.40}")
        if fast:
            return self._encoder.stream(documents(chunks), processes, end_of_text)
        end = [self.end_of_text] if end_of_text and self.end_of_text is not None else []
        return (np.array(self.encode(text) + end, self.dtype) for text in documents(chunks))

    def decode(self, ids, errors="replace"):
        """The text of some ids. Bytes that are no UTF-8 (a model may write any) become U+FFFD;
        `errors` is that of bytes.decode."""
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def decode_bytes(self, ids):
        """The bytes of some ids: a list, a one-dimensional array or tensor, any iterable."""
        try:
            ids = list(map(operator.index, ids.tolist() if hasattr(ids, "tolist") else ids))
        except TypeError as error:
            raise TokenizerError(f"ids have to be a list of whole numbers: {error}") from None
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise TokenizerError(f"{wrong[0]} is none of the ids 0 to {self.vocab_size - 1}")
        return b"".join([self.vocab[i] for i in ids])

    def _content(self):
        """What a vocabulary file holds; a merge as [first id, second id, the string it makes]."""
        strings = [token.decode("utf-8", errors="backslashreplace") for token in self.vocab[256:]]
        return {
            "format": "bpe_tokenizer vocabulary",
            "version": 1,
            "sha256": self.sha256,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "merges": [[*pair, string] for pair, string in zip(self.merges, strings, strict=False)],
        }

    def save(self, path):
        """Write the vocabulary as JSON, one merge per line."""
        to_json = functools.partial(json.dumps, ensure_ascii=False)
        *head, (_, rows) = self._content().items()
        head = [f"  {to_json(key)}: {to_json(value)}" for key, value in head]
        rows = "[\n    " + ",\n    ".join(map(to_json, rows)) + "\n  ]" if rows else "[]"
        with atomic_write(path, "w") as file:
            file.write("{\n" + ",\n".join(head) + f',\n  "merges": {rows}\n' + "}\n")

    @classmethod
    def load(cls, path):
        """Read what save wrote. A file that is cut short, edited or of another kind is refused."""
        try:
            saved = fast.checks.read(path) if fast else json.loads(Path(path).read_bytes())
            merges, names = [row[:2] for row in saved["merges"]], list(saved["special_tokens"])
            tokenizer = cls(merges, saved["pattern"], names)
            if tokenizer._content() != saved:
                raise TokenizerError("its checksum does not fit: it has been edited or damaged")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise TokenizerError(f"{path}: not a usable vocabulary: {error}") from None
        return tokenizer

    def to_tiktoken(self, name="bpe"):
        """This vocabulary as a tiktoken.Encoding, with the same ids."""
        return fast.convert.to_tiktoken(self, name)

    def to_huggingface(self):
        """This vocabulary as a tokenizers.Tokenizer, with the same ids."""
        return fast.convert.to_huggingface(self)

    @classmethod
    def from_huggingface(cls, path):
        """Read a byte-level BPE `tokenizer.json`, GPT-2's for one; ids are numbered as here."""
        return fast.convert.from_huggingface(path, cls, GPT2_PATTERN)


def documents(texts):
    """An iterator of a corpus' documents; one string is one document."""
    is_many = hasattr(texts, "__iter__") and not isinstance(texts, (str, bytes))
    return map(check_text, texts if is_many else [texts])


if __name__ == "__main__":
    runpy.run_module("results.bpe_cli", run_name="__main__")
