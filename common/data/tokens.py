"""Token files: a split of a corpus as ids on disk."""

import functools
import hashlib
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from common.data.cache import cache_folder, made_once, progress_bar, slug
from common.errors import UserError
from common.files import atomic_write, read_json, write_json

import msgspec
import numpy as np

SEVERAL_FROM = 50_000_000  # bytes of a split from which on several processes encode it


@dataclass
class TokenFile:
    """A split as token ids on disk: raw, little-endian, nothing else in the file.

    unknown_share: of the text's characters, how many became <|unk|>, from 0 to 1. Where it is
    above 0, bits per byte leave out what these characters would have cost.
    """

    path: Path
    dtype: np.dtype
    n_tokens: int
    unknown_share: float = 0.0

    def memmap(self) -> np.ndarray:
        """The ids (n_tokens,), memory-mapped, read-only."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.n_tokens,))

    def load(self) -> np.ndarray:
        """The ids (n_tokens,) in memory."""
        return np.fromfile(self.path, dtype=self.dtype, count=self.n_tokens)


class _Description(msgspec.Struct):
    """The .json file of a token file."""

    n_tokens: int
    dtype: Literal["|u1", "<u2", "<u4"]
    crc32: int
    unknown_share: Annotated[float, msgspec.Meta(ge=0, le=1)]


def token_file(corpus, split, tokenizer, note=True) -> TokenFile:
    """Encode a split once; later calls find the file.

    The name holds a hash of the split and of the tokenizer, so that another text or another
    vocabulary is another file. A file that was cut short or changed is made again. Processes
    that want the same file at once wait for the first. Memory stays bounded. note: print what share
    of the characters is unknown.
    """
    key = hashlib.sha256(f"2 {corpus.key(split)} {tokenizer.sha256}".encode()).hexdigest()[:24]
    path = cache_folder() / f"{slug(corpus.name)}-{split}-{tokenizer.kind}-{key}.bin"
    found = made_once(path, _checked, functools.partial(_encode, corpus, split, tokenizer))
    if found.n_tokens < 2:
        few = f"{found.n_tokens} token in the {split} split is too few"
        raise UserError(f"{corpus.name}: {few}, no other can be predicted: use a longer text")
    if found.unknown_share and split != "train" and note:
        print(
            f"{corpus.name}: {found.unknown_share:.1%} of the {split} split's characters are not in"
            f" the {tokenizer.kind} vocabulary and become <|unk|>: bits per byte leave them out",
            file=sys.stderr,
        )
    return found


def _encode(corpus, split, tokenizer, path) -> TokenFile:
    dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
    crc = n_tokens = n_known = 0
    lengths = None  # of the tokens in characters, where not all text can be encoded
    if not tokenizer.lossless:
        lengths = np.array(list(map(len, tokenizer.vocab)))
        lengths[list(tokenizer.special_tokens.values())] = 0
    with (
        atomic_write(path) as stream,
        progress_bar(f"encoding {corpus.name} {split}", corpus.n_bytes[split]) as bar,
    ):
        text = corpus.checked_pieces(split, bar.update)
        n_processes = (os.cpu_count() or 1) if corpus.n_bytes[split] > SEVERAL_FROM else 1
        for ids in tokenizer.encode_stream(text, n_processes, end_of_text=corpus.documents):
            data = np.ascontiguousarray(ids, dtype=dtype).tobytes()
            stream.write(data)
            crc = zlib.crc32(data, crc)
            n_tokens += len(data) // dtype.itemsize
            n_known += 0 if lengths is None else int(lengths[ids].sum())
    n_characters = max(corpus.facts.splits[split].n_characters, 1)
    share = 0.0 if lengths is None else 1 - n_known / n_characters
    # The description comes last: without it, or where it does not fit, there is no file.
    write_json(path.with_suffix(".json"), _Description(n_tokens, dtype.str, crc, share))
    return TokenFile(path, dtype, n_tokens, share)


def _checked(path) -> TokenFile:
    """The token file. Raises UserError or OSError where it is not there, or has been changed."""
    about = read_json(path.with_suffix(".json"), "a description of tokens", _Description)
    found = TokenFile(path, np.dtype(about.dtype), about.n_tokens, about.unknown_share)
    size = crc = 0
    with open(path, "rb") as stream:
        while data := stream.read(1 << 22):
            size, crc = size + len(data), zlib.crc32(data, crc)
    if (size, crc) != (found.n_tokens * found.dtype.itemsize, about.crc32):
        raise UserError(f"{path} was changed after it was written")
    return found
