"""Other libraries' tokenizers with the same ids."""

import json

from common.bpe.checks import TokenizerError, read
from common.errors import reason_of

READABLE = (
    "a tokenizer.json that can be read here (byte-level BPE without a normalizer, with the"
    " pre-tokenizer ByteLevel or Split by a Regex, Isolated, not inverted, and then ByteLevel;"
    " without add_prefix_space, byte_fallback, ignore_merges and end_of_word_suffix)"
)
UNUSUAL = "dropout continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges".split()


def to_tiktoken(tokenizer, name):
    """A BPETokenizer as a tiktoken.Encoding.

    Libraries may know different versions of Unicode, and then cut text at characters of the newest
    scripts differently. What tiktoken itself ships as GPT-4's pattern differs from ours in one
    point: white space at the very end of a text is one chunk.
    """
    import tiktoken

    ranks = _ids_of(tokenizer.vocab[: 256 + len(tokenizer.merges)])
    ids = {"mergeable_ranks": ranks, "special_tokens": dict(tokenizer.special_tokens)}
    return tiktoken.Encoding(name, pat_str=tokenizer.pattern, **ids)


def to_huggingface(tokenizer):
    """A BPETokenizer as a tokenizers.Tokenizer. Unlike ours, it takes the spelling of a special
    token in a text always for that token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    letters = _byte_letters()
    names = ["".join(letters[byte] for byte in token) for token in tokenizer.vocab]
    ids = _ids_of(names[: 256 + len(tokenizer.merges)])
    if both := ids.keys() & tokenizer.special_tokens.keys():
        raise TokenizerError(f"the special token {both.pop()!r} is an ordinary token as well")
    merges = [(names[a], names[b]) for a, b in tokenizer.merges]
    made = Tokenizer(models.BPE(vocab=ids, merges=merges))
    split = pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(one, normalized=False) for one in tokenizer.special_tokens])
    return made


def from_huggingface(path, make, byte_level_pattern):
    """What `make` makes of (merges, pattern, special tokens) of a byte-level BPE `tokenizer.json`.

    The tokens and where a text is cut stay the same, but the ids become ours: bytes first, merges
    in order, the added tokens last. (GPT-2 numbers its bytes otherwise.) Kinds of tokenizer that
    would cut a text differently are refused. What a post-processor puts around a text is left out.
    `byte_level_pattern`: the split pattern that the library's ByteLevel has.
    """
    given = read(path, READABLE)
    model = given.get("model")
    if not isinstance(model, dict) or any(map(model.get, UNUSUAL)):
        raise TokenizerError(f"{path} is not {READABLE}")
    try:
        from tokenizers import Tokenizer

        # However old the file is, this is as today's are.
        saved = json.loads(Tokenizer.from_str(json.dumps(given)).to_str())
    except ImportError:
        raise TokenizerError(f"{path} is read by tokenizers: pip install tokenizers") from None
    except Exception as error:  # the library has no kind of its own
        raise TokenizerError(f"{path} is not {READABLE}: {reason_of(error)}") from None
    model, cut = saved["model"], saved["pre_tokenizer"] or {}
    steps = cut.get("pretokenizers", [cut]) or [{}]
    pattern = steps[0].get("pattern", {}).get("Regex")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": pattern is None}
    wanted = [{**split, "invert": False}] * (pattern is not None) + [steps[-1] | by_bytes]
    if steps != wanted or saved["normalizer"] or model["type"] != "BPE":
        raise TokenizerError(f"{path} is not {READABLE}")
    added = [token["content"] for token in sorted(saved["added_tokens"], key=lambda one: one["id"])]
    try:
        own = byte_level_pattern if pattern is None else pattern
        return make(_merges(model, added), own, added)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _ids_of(tokens):
    """dict: token -> id, for a library that knows a token by its bytes."""
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise TokenizerError("two merges make the same token: the library cannot hold that")
    return ids


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
    for rank, pair in enumerate(model["merges"]):
        made = "".join(pair)
        if len(pair) != 2 or not ids.keys() >= set(pair):
            raise TokenizerError(f"merge {rank}, {pair!r:.60}, is no pair of earlier tokens")
        if made in ids:
            raise TokenizerError(f"two merges make {made!r:.40}: it was not trained as BPE")
        merges.append((ids[pair[0]], ids[pair[1]]))
        ids[made] = 256 + rank
    if unmade := model["vocab"].keys() - ids.keys() - set(added):
        token = min(unmade)
        raise TokenizerError(f"its token {token!r:.40} is neither a byte nor made by a merge")
    return merges
