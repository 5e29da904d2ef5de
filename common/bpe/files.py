"""Vocabulary files, read through a schema: whatever is wrong is a TokenizerError, one line."""

import os
from typing import Literal

from common.bpe.checks import TokenizerError

import msgspec

MAX_FILE_BYTES = 2**27


class Vocabulary(msgspec.Struct, forbid_unknown_fields=True):
    """What BPETokenizer.save writes; a merge as [first id, second id, the string it makes]."""

    format: Literal["bpe_tokenizer vocabulary"]
    version: Literal[1]
    sha256: str
    vocab_size: int
    pattern: str
    special_tokens: dict[str, int]
    merges: list[tuple[int, int, str]]


def read_as(schema, path):
    """The content of a JSON file, as `schema`."""
    if not os.path.isfile(path):
        raise TokenizerError("there is no such regular file")
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise TokenizerError(f"{size:,} bytes are too many for a vocabulary")
    try:
        with open(path, "rb") as file:
            data = file.read(size)  # a limit in its place would be reserved in memory
        return msgspec.json.decode(data, type=schema)
    except OSError as error:
        raise TokenizerError(f"it can't be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TokenizerError(
            f"it is not JSON, cut short, damaged or of a later version: {error}"
        ) from None


def read_vocabulary(path):
    """The content of a file that BPETokenizer.save wrote, a dict. The fields have their types; that
    they belong together is for the caller to see."""
    saved = msgspec.structs.asdict(read_as(Vocabulary, path))
    return {**saved, "merges": list(map(list, saved["merges"]))}
