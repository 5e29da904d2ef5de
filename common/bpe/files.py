"""Vocabulary files, read through a schema: whatever is wrong is a UserError, one line."""

from typing import Literal

from common.files import LARGEST_VOCABULARY, read_json

import msgspec


class Vocabulary(msgspec.Struct, forbid_unknown_fields=True):
    """What BPETokenizer.save writes; a merge as [first id, second id, the string it makes]."""

    format: Literal["bpe_tokenizer vocabulary"]
    version: Literal[1]
    sha256: str
    vocab_size: int
    pattern: str
    special_tokens: dict[str, int]
    merges: list[tuple[int, int, str]]


def read(path):
    """The content of a file that BPETokenizer.save wrote, a dict. The fields have their types; that
    they belong together is for the caller to see."""
    saved = read_json(path, "a vocabulary of this version", Vocabulary, LARGEST_VOCABULARY)
    return {**msgspec.structs.asdict(saved), "merges": list(map(list, saved.merges))}
