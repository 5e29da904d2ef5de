"""The tokenizer's error, and checks of what callers and files hand over."""

import re

from common.errors import UserError

import regex


class TokenizerError(UserError):
    """What is wrong with a text, a vocabulary or a file, in one line."""


def check_text(text):
    """The text, a string that UTF-8 can write."""
    if not isinstance(text, str):
        raise TokenizerError(f"only text has ids: it has to be a str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        wrong = f"a lone surrogate, U+{ord(text[error.start]):04X}, which UTF-8 cannot write"
        raise TokenizerError(f"the text holds {wrong}: drop it") from None
    return text


def check_special_tokens(spellings):
    """The spellings as a list: different strings, none of them empty."""
    if isinstance(spellings, str):
        raise TokenizerError("special_tokens has to be a list of strings, not one string")
    spellings = list(spellings)
    if "" in map(check_text, spellings) or len(set(spellings)) < len(spellings):
        raise TokenizerError("a special token is empty, or comes twice")
    return spellings


def read(path, what="a vocabulary", schema=dict):
    """The content of a vocabulary's file (see read_json). As a dict it may be any JSON object:
    whether it is what BPETokenizer.save writes is for the caller to see."""
    from common.files import LARGEST_VOCABULARY, read_json  # processes that encode read none

    return read_json(path, what, schema, LARGEST_VOCABULARY)


def compile_pattern(pattern):
    """A split pattern, compiled. Refused is one that searches backwards, so that its chunks would
    not be the text, and one that calls itself, which may fill the memory before any time limit."""
    if not isinstance(pattern, str) or not pattern:
        raise TokenizerError(f"the split pattern has to be some text, not {pattern!r:.40}")
    shown = f"the split pattern {pattern!r:.60}"
    try:
        compiled = regex.compile(pattern)
    except Exception as error:  # whatever regex raises where flags, say, contradict each other
        raise TokenizerError(f"{shown} is no regular expression: {error}") from None
    if compiled.flags & regex.REVERSE or re.search(r"\(\?(R|&|P[^<=]|[-+]?\d)", pattern):
        raise TokenizerError(f"{shown} searches backwards or calls itself: not supported")
    return compiled
