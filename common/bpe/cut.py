"""Pre-tokenization at speed: the chunks that the split pattern finds, found sooner.

Some properties of the three patterns that bpe_tokenizer.py names make it possible. They follow from
their alternatives. No chunk goes on from a letter or digit into anything else (GPT-2, GPT-4). None
goes on from what is not white space into a space (all three), and a run of white space before a
word is cut before its last space: there `(?!\\S)` holds as it does at the end of a text. Nothing is
looked at before a chunk's beginning, nor after its end unless it ends in white space.

- So a text may be cut before each space that is followed by something else than white space. In
  spaced text that is most spaces, `str.split` finds them many times faster than a pattern finds
  chunks, and the pattern has to run over each distinct word only.
- So a text may be cut wherever a letter or digit is followed by something else (for the white space
  pattern: where white space follows anything else), and both parts have the chunks that they have
  together. That is how a document becomes blocks of bounded size.
- So the ASCII parts of a text can be cut by themselves. There `\\p{L}` is `[A-Za-z]` and `\\p{N}`
  is `[0-9]`, and with these in their place Python's own `re` runs the pattern about twice as fast
  as `regex`, which knows all of Unicode.

A caller's own pattern makes no such promise. It is run over each document as a whole, and it is
given a time limit, because it may be one that backtracks without end.
"""

import re

from common.bpe.checks import TokenizerError, compile_pattern

import regex

PART = 2**18  # characters that are cut into chunks together

TIME_LIMIT = 10  # seconds for a caller's own pattern, and 10 more per million characters

MARK = "\0"  # for a space where words may not be cut; a text that has it is not cut into words
# A space that white space or the text's end follows: no place to cut. `re` takes four characters
# more for white space than `regex` does, so it may leave a word longer than it has to be.
UNSAFE_SPACE = re.compile(r" (?!\S)")

# Where a text may be cut in two, whatever comes before and after. In ASCII, one rule serves all.
SAFE_CUT = regex.compile(r"[\p{L}\p{N}](?=[^\p{L}\p{N}])")
SAFE_CUT_AT_WHITE_SPACE = regex.compile(r"\S(?=\s)")
SAFE_CUT_IN_ASCII = r"[A-Za-z0-9](?=[ \t-\r])"
# ASCII as far as it goes and then something else, up to where it may be cut; and so on in turn.
TURNS = re.compile(rf"([\0-\x7f]*{SAFE_CUT_IN_ASCII})?(.*?{SAFE_CUT_IN_ASCII}|.+)?", re.DOTALL)


class PreTokenizer:
    """Splits texts into chunks, and documents into texts.

    pattern   the split pattern
    known     whether it is one of the three patterns that the shorter ways are proven for
    split     the plain definition, bpe_tokenizer.split, for any other pattern
    """

    def __init__(self, pattern, known, split=None):
        self.pattern, self.known, self.split = compile_pattern(pattern), known, split
        if known:
            self.in_ascii = _in_ascii(pattern)
            self.safe_cut = SAFE_CUT if r"\p{L}" in pattern else SAFE_CUT_AT_WHITE_SPACE

    def spans(self, text):
        """A text cut into spans, which have their chunks each by itself, as a list of keys: of a
        word with the one space before it the word's bytes, of a chunk the chunk, a string. Only
        spaced text is cut into words, after the chunks of what comes before the first space."""
        spaces = text.count(" ")
        runs = text.count("\n") + text.count("  ")
        if not self.known or 8 * spaces < len(text) or 4 * runs > spaces or MARK in text:
            return self.chunks(text)
        first, *words = UNSAFE_SPACE.sub(MARK, text).encode("utf-8").split(b" ")
        return self.chunks(_unmarked(first)) + words

    def chunks_of(self, key):
        """The chunks of the span that has this key."""
        return [key] if isinstance(key, str) else self.chunks(" " + _unmarked(key))

    def chunks(self, text):
        """The chunks of a text, a list of strings which end to end are the text."""
        if not self.known:
            pattern, seconds = self.pattern.pattern, TIME_LIMIT * (1 + len(text) / 1e6)
            try:
                return self.split(text, pattern, seconds)
            except (TimeoutError, MemoryError):
                shown = f"the split pattern {pattern!r:.60}"
                raise TokenizerError(f"{shown} takes too long on this text: simplify it") from None
        if text.isascii():
            return self.in_ascii.findall(text)
        chunks = []
        for ascii_part, other_part in TURNS.findall(text):
            chunks += self.in_ascii.findall(ascii_part)
            chunks += self.pattern.findall(other_part)
        return chunks

    def parts(self, documents):
        """Pairs (text, whether its document ends there): the documents, cut where they may be. A
        text is longer than PART only where it has no such place, or the pattern is not `known`."""
        for document in documents:
            start = 0
            while start is not None:
                match = self.safe_cut.search(document, start + PART) if self.known else None
                cut = match.end() if match else None
                yield document[start:cut], cut is None
                start = cut


def _unmarked(word):
    return word.decode("utf-8").replace(MARK, " ")


def _in_ascii(pattern):
    """A split pattern as one of `re` that finds the same chunks in ASCII text."""
    pattern = pattern.replace(r"\p{L}\p{N}]", "A-Za-z0-9]")
    pattern = pattern.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    return re.compile(pattern, re.ASCII)
