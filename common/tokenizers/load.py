"""Every tokenizer behind one interface: bytes in pairs, characters, words, and GPT-2's.

    tokenizer = load_tokenizer("bpe", corpus, vocab_size=4096)
    ids = tokenizer.encode("One morning")

All have: kind, vocab_size, vocab, dtype, sha256, end_of_text, lossless, and encode, decode,
encode_stream, encode_corpus, save. The byte pair encoder itself is in bpe_tokenizer.py.
"""

import collections
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from common.data.cache import cache_folder, locked, progress_bar, slug
from common.errors import UserError
from common.files import atomic_write

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<|unk|>"
KINDS = ("bpe", "char", "word", "gpt2")
FORMAT = "lineage tokenizer"
ENOUGH = 100_000_000  # bytes of training text that a vocabulary is made from, at most
LARGEST_FILE = 1 << 28  # a vocabulary file above this is something else


class Tokenizer:
    """What the tokenizers of this file share. `vocab` is a list: id -> the string it shows."""

    kind = ""
    lossless = False  # False: decode(encode(text)) may differ, so bits per byte do not compare

    def __init__(self, vocab, special_tokens):
        self.vocab = list(vocab) + list(special_tokens)
        self.special_tokens = {name: len(vocab) + i for i, name in enumerate(special_tokens)}
        # Specials stay out of the lookup: their spelling in a text is ordinary text.
        self.ids = {text: i for i, text in enumerate(vocab)}
        self.unknown = self.special_tokens.get(UNKNOWN)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    @property
    def end_of_text(self) -> int | None:
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def sha256(self) -> str:
        """Hash of all that decides which ids a text becomes."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()

    def _content(self) -> dict:
        names = list(self.special_tokens)
        return {
            "kind": self.kind,
            "special_tokens": names,
            "vocab": self.vocab[: len(self.vocab) - len(names)],
        }

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        """An array of ids for each chunk of text, in order; memory does not grow.

        end_of_text: put that id behind each chunk. `processes` is there for the interface only.
        """
        end = [self.end_of_text] if end_of_text and self.end_of_text is not None else []
        for chunk in [chunks] if isinstance(chunks, str) else chunks:
            yield np.array(self.encode(chunk) + end, dtype=self.dtype)

    def encode_corpus(self, text_or_chunks, processes=None, end_of_text=False) -> np.ndarray:
        """All ids in one array (n_tokens,)."""
        arrays = list(self.encode_stream(text_or_chunks, processes, end_of_text))
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=self.dtype)

    def pieces(self, text) -> list[str]:
        """Cut a text into what the vocabulary lists."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        _must_be_text(text)
        get, unknown = self.ids.get, self.unknown
        return [get(piece, unknown) for piece in self.pieces(text)]

    def decode(self, ids) -> str:
        return "".join(self.vocab[i] for i in self._valid(ids))

    def _valid(self, ids):
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"no token has the id {i}: ids go from 0 to {self.vocab_size - 1}")
        return ids

    def save(self, path):
        """Write the vocabulary as JSON that a person can read, one entry a line."""
        content = {"format": FORMAT, "version": 1, **self._content(), "sha256": self.sha256}
        with atomic_write(path, "w") as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=0) + "\n")


class CharTokenizer(Tokenizer):
    """One id for each character of the training text, in the order of their code points."""

    kind = "char"

    @classmethod
    def train(cls, texts, special_tokens=(END_OF_TEXT,)):
        characters = set()
        for text in texts:
            characters.update(text)
        return cls(sorted(characters), _with_unknown(special_tokens))

    def pieces(self, text):
        return text


class WordTokenizer(Tokenizer):
    """One id for each of the most frequent words and marks; the others are <|unk|>.

    A word takes the one space before it along, so decoding is joining, and known words come
    back exactly: "the cat , sat" is "the", " cat", " ,", " sat". An unknown word comes back as
    <|unk|>, behind a space unless it opens a line.
    """

    kind = "word"
    # <unk> and @-@ are WikiText's own marks; 's and n't keep their apostrophe.
    PATTERN = r" ?<unk>| ?'(?:s|t|d|m|re|ve|ll)\b| ?\w+(?:['’]\w+)*| ?[^\w\s]+|\s"

    def pieces(self, text):
        return re.findall(self.PATTERN, text)

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=(END_OF_TEXT,)):
        names = _with_unknown(special_tokens)
        if vocab_size <= len(names):
            raise UserError(
                f"a word vocabulary of {vocab_size} has no room for words beside "
                f"{' and '.join(names)}: use a larger --vocab-size"
            )
        counts = collections.Counter()
        for text in texts:
            counts.update(re.findall(cls.PATTERN, text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words[: vocab_size - len(names)], names)

    def decode(self, ids):
        text = []
        for i in self._valid(ids):
            if i == self.unknown and text and not text[-1][-1:].isspace():
                text.append(" ")
            text.append(self.vocab[i])
        return "".join(text)


class GPT2Tokenizer(Tokenizer):
    """GPT-2's 50,257 tokens, by tiktoken, which fetches their file on first use."""

    kind = "gpt2"
    lossless = True

    def __init__(self):
        try:
            import tiktoken
        except ImportError:
            raise UserError("--tokenizer gpt2 needs tiktoken: pip install tiktoken") from None
        try:
            self.encoding = tiktoken.get_encoding("gpt2")
        except Exception as error:  # whatever the download raises
            raise UserError(
                "tiktoken cannot get GPT-2's vocabulary "
                f"({type(error).__name__}): check the network, or use "
                "--tokenizer bpe"
            ) from None
        self.special_tokens = {END_OF_TEXT: self.encoding.eot_token}
        self.unknown = None

    @property
    def vocab_size(self):
        return self.encoding.n_vocab

    @property
    def vocab(self):
        """id -> bytes."""
        decode = self.encoding.decode_single_token_bytes
        return [decode(i) for i in range(self.vocab_size)]

    def _content(self):
        return {"kind": "gpt2", "vocab_size": self.vocab_size}

    def encode(self, text):
        _must_be_text(text)
        return self.encoding.encode_ordinary(text)

    def decode(self, ids):
        return self.encoding.decode(self._valid(ids))


def _must_be_text(text):
    if not isinstance(text, str):
        raise UserError(f"only text can be encoded, not {type(text).__name__}")


def _with_unknown(special_tokens):
    return [UNKNOWN, *(name for name in special_tokens if name != UNKNOWN)]


# --------------------------------------------------------------------- by kind, and from a file


def load_tokenizer(
    kind, corpus, vocab_size, pattern="gpt4", special_tokens=(END_OF_TEXT,), cache_dir=None
):
    """A tokenizer by its kind (bpe, char, word, gpt2), or from a saved vocabulary's path.

    The first three are trained on the corpus' training split (on its first 100 MB where it is
    longer) once, and kept in the cache. vocab_size counts everything; char takes the
    characters there are instead, and gpt2 is what it is. pattern: bpe only, gpt2, gpt4,
    whitespace or a regular expression.
    """
    kind = str(kind)
    if kind == "gpt2":
        return GPT2Tokenizer()
    if kind not in KINDS:
        return load_tokenizer_file(kind)
    if isinstance(special_tokens, str):
        special_tokens = (special_tokens,)
    special_tokens = tuple(special_tokens)
    if kind == "bpe" and vocab_size < 256 + len(special_tokens):
        raise UserError(
            f"--vocab-size {vocab_size} is too small for byte pairs: 256 bytes and "
            f"{len(special_tokens)} special tokens come first"
        )
    about = [kind, special_tokens]
    about += {"bpe": [vocab_size, pattern], "word": [vocab_size], "char": []}[kind]
    key = hashlib.sha256(f"1 {corpus.key('train')} {about}".encode()).hexdigest()[:24]
    folder = cache_folder(cache_dir if cache_dir is not None else corpus.cache_dir)
    path = folder / f"{slug(corpus.name)}-{kind}-{key}.json"
    with locked(path):
        if path.exists():
            try:
                return load_tokenizer_file(path)
            except UserError:
                pass  # damaged: made again
        tokenizer = _train(kind, corpus, vocab_size, pattern, special_tokens)
        try:
            tokenizer.save(path)
        except OSError as error:
            raise UserError(
                f"can't write {path}: {error.strerror or error}; free some space, or "
                "set LINEAGE_CACHE to another folder"
            ) from None
    return tokenizer


def _train(kind, corpus, vocab_size, pattern, special_tokens):
    total = corpus.n_bytes["train"]
    if total > ENOUGH:
        print(
            f"the {kind} vocabulary is made from the first {ENOUGH // 10**6} MB of "
            f"{total // 10**6} MB of training text",
            file=sys.stderr,
        )
    with progress_bar(f"{kind} vocabulary", min(total, ENOUGH)) as bar:
        texts = _first_bytes(corpus.pieces("train"), ENOUGH, bar)
        if kind == "char":
            return CharTokenizer.train(texts, special_tokens)
        if kind == "word":
            return WordTokenizer.train(texts, vocab_size, special_tokens)
        from bpe_tokenizer import PATTERNS, BPETokenizer, TokenizerError

        try:
            return BPETokenizer.train(
                texts,
                vocab_size,
                pattern=PATTERNS.get(pattern, pattern),
                special_tokens=special_tokens,
            )
        except TokenizerError as error:
            raise UserError(str(error)) from None


def _first_bytes(pieces, limit, bar):
    for piece in pieces:
        yield piece
        size = len(piece.encode("utf-8"))
        bar.update(size)
        limit -= size
        if limit <= 0:
            return


def load_tokenizer_file(path):
    """A saved vocabulary of any kind; a byte-level `tokenizer.json` of Hugging Face too."""
    path = Path(path)
    if not os.path.exists(path):  # false for impossible names too
        raise UserError(f"--tokenizer {path} is neither a kind ({', '.join(KINDS)}) nor a file")
    if not path.is_file() and not path.is_dir():  # a pipe, or a device without an end
        raise UserError(f"--tokenizer {path} is not a regular file")
    try:
        size = path.stat().st_size
        data = None if size > LARGEST_FILE else json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no saved vocabulary: not JSON, or cut short") from None
    if size > LARGEST_FILE:
        raise UserError(f"{path} is too large for a vocabulary")
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return _from_content(path, data)
    from bpe_tokenizer import BPETokenizer, TokenizerError

    try:
        if isinstance(data, dict) and isinstance(data.get("model"), dict):
            return BPETokenizer.from_huggingface(path)
        return BPETokenizer.load(path)
    except TokenizerError as error:
        raise UserError(str(error)) from None


def _from_content(path, data):
    """Check every field before it is believed."""
    kind, vocab, names = data.get("kind"), data.get("vocab"), data.get("special_tokens")
    if data.get("version") != 1:
        raise UserError(f"{path} has the version {data.get('version')!r}; this program reads 1")
    if kind == "gpt2":
        tokenizer = GPT2Tokenizer()
    elif kind in ("char", "word"):
        for field in (vocab, names):
            if not isinstance(field, list) or not all(isinstance(one, str) for one in field):
                raise UserError(f"{path} is damaged: vocab and special_tokens must list strings")
        if len(set(vocab + names)) < len(vocab) + len(names) or UNKNOWN not in names:
            raise UserError(f"{path} is damaged: a token twice, or none for unknown text")
        if kind == "char" and any(len(one) != 1 for one in vocab):
            raise UserError(f"{path} is damaged: a character vocabulary lists characters")
        tokenizer = {"char": CharTokenizer, "word": WordTokenizer}[kind](vocab, names)
    else:
        raise UserError(f"{path} is of the unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if tokenizer.sha256 != data.get("sha256"):
        raise UserError(f"{path} was changed after it was saved: its checksum does not fit")
    return tokenizer
