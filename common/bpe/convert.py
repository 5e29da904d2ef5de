"""Other libraries' tokenizers with the same ids."""

from typing import Literal

from common.bpe.checks import TokenizerError
from common.errors import UserError
from common.files import LARGEST_VOCABULARY, read_json

import msgspec


class Step(msgspec.Struct):
    """One of a tokenizer.json's pre-tokenizers, of the two kinds that are known here."""

    type: str
    add_prefix_space: bool = False
    use_regex: bool = True
    pattern: dict[str, str] = {}
    behavior: str = "Isolated"
    invert: bool = False
    pretokenizers: list["Step"] = []


class Model(msgspec.Struct):
    """A tokenizer.json's model. Older files write a pair as one string, with a space between."""

    vocab: dict[str, int]
    merges: list[tuple[str, str] | str]
    type: Literal["BPE"] = "BPE"
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


class AddedToken(msgspec.Struct):
    id: int
    content: str


class TokenizerFile(msgspec.Struct):
    """A tokenizer.json of Hugging Face, as far as it decides the ids of a text."""

    model: Model
    normalizer: dict | None = None
    pre_tokenizer: Step | None = None
    added_tokens: list[AddedToken] | None = None


def to_tiktoken(tokenizer, name):
    """A BPETokenizer as a tiktoken.Encoding.

    Libraries may know different versions of Unicode, and then cut text at characters of the newest
    scripts differently. What tiktoken itself ships as GPT-4's pattern differs from ours in one
    point: white space at the very end of a text is one chunk.
    """
    import tiktoken

    n_ordinary = 256 + len(tokenizer.merges)
    ranks = {token: i for i, token in enumerate(tokenizer.vocab[:n_ordinary])}
    if len(ranks) < n_ordinary:
        raise TokenizerError("two merges make the same token: tiktoken cannot hold that")
    return tiktoken.Encoding(
        name,
        pat_str=tokenizer.pattern,
        mergeable_ranks=ranks,
        special_tokens=dict(tokenizer.special_tokens),
    )


def to_huggingface(tokenizer):
    """A BPETokenizer as a tokenizers.Tokenizer. Unlike ours, it takes the spelling of a special
    token in a text always for that token."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = _byte_letters()
    names = ["".join(letters[byte] for byte in token) for token in tokenizer.vocab]
    ids = {name: i for i, name in enumerate(names[: 256 + len(tokenizer.merges)])}
    if len(ids) < 256 + len(tokenizer.merges):
        raise TokenizerError("two merges make the same token: the library cannot hold that")
    for spelling in tokenizer.special_tokens:
        if spelling in ids:
            raise TokenizerError(f"the special token {spelling!r} is an ordinary token as well")
    merges = [(names[a], names[b]) for a, b in tokenizer.merges]
    made = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(tokenizer.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [
            tokenizers.AddedToken(spelling, special=True, normalized=False)
            for spelling in tokenizer.special_tokens
        ]
    )
    return made


def from_huggingface(path, make, byte_level_pattern):
    """What `make` makes of (merges, pattern, special tokens) of a byte-level BPE `tokenizer.json`.

    The tokens and where a text is cut stay the same, but the ids become ours: bytes first, merges
    in order, the added tokens last. (GPT-2 numbers its bytes otherwise.) Kinds of tokenizer that
    would cut a text differently are refused. What a post-processor puts around a text is left out.
    `byte_level_pattern`: the split pattern that the library's ByteLevel has.
    """
    try:
        saved = read_json(path, "a tokenizer.json", TokenizerFile, LARGEST_VOCABULARY)
        if saved.normalizer is not None:
            raise TokenizerError("it has a normalizer, which would change the text; not supported")
        for option in (
            *("dropout", "continuing_subword_prefix", "end_of_word_suffix"),
            *("byte_fallback", "ignore_merges"),
        ):
            if getattr(saved.model, option):
                raise TokenizerError(f"its model uses {option}, which is not supported")
        added = sorted(saved.added_tokens or [], key=lambda token: token.id)
        added = [token.content for token in added]
        pattern = _pattern(saved.pre_tokenizer or Step("no pre-tokenizer"), byte_level_pattern)
        return make(_merges(saved.model, added), pattern, added)
    except UserError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _byte_letters():
    """How `tokenizer.json` files write a byte: as one visible character. Bytes that are visible
    in Latin-1 stand for themselves, the others for the characters from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _merges(model, added):
    """The model's merges as pairs of our ids."""
    ids = {letter: byte for byte, letter in _byte_letters().items()}
    merges = []
    for rank, pair in enumerate(model.merges):
        pair = pair.split(" ") if isinstance(pair, str) else pair
        made = "".join(pair)
        if len(pair) != 2 or any(half not in ids for half in pair):
            raise TokenizerError(f"merge {rank}, {pair!r:.60}, is no pair of earlier tokens")
        if made in ids:
            raise TokenizerError(f"two merges make {made!r:.40}: it was not trained as BPE")
        merges.append((ids[pair[0]], ids[pair[1]]))
        ids[made] = 256 + rank
    for token in model.vocab:
        if token not in ids and token not in added:
            raise TokenizerError(f"its token {token!r:.40} is neither a byte nor made by a merge")
    return merges


def _pattern(pre_tokenizer, byte_level_pattern):
    """The pattern of a pre-tokenizer: ByteLevel, or a Sequence of Split and ByteLevel."""
    steps = [pre_tokenizer]
    if pre_tokenizer.type == "Sequence":
        steps = pre_tokenizer.pretokenizers
    kinds = [step.type for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise TokenizerError(
            f"its pre-tokenizer is {' + '.join(kinds):.80}; only ByteLevel, or Split + ByteLevel,"
            " can be read"
        )
    split, byte_level = steps[0], steps[-1]
    if byte_level.add_prefix_space:
        raise TokenizerError("it puts a space before each text (add_prefix_space): not supported")
    if kinds == ["ByteLevel"]:
        if not byte_level.use_regex:
            raise TokenizerError("its ByteLevel cuts nothing (use_regex false): not supported")
        return byte_level_pattern
    pattern = split.pattern.get("Regex")
    if byte_level.use_regex or not pattern or split.behavior != "Isolated" or split.invert:
        raise TokenizerError("its Split has to be by a Regex, Isolated, not inverted")
    return pattern
