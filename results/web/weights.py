"""The published models as the page holds them: rounded to 8 bits, packed, with their vocabularies.

A matrix keeps whole numbers from -127 to 127 and a scale per row, a vector its float32 numbers. Of
the large tables only a part is kept: of a bigram table the logits of what is not very improbable,
of tables of hashed n-grams the longest rows.
"""

import base64
import json

from bpe_tokenizer import BPETokenizer
from results import store

import numpy as np

LARGE = 2**20  # numbers of a table from which on only a part of it is kept
PROBABLE = 1e-4  # the probability from which on a large bigram table's logit is kept
LONGEST_ROWS = 6144  # of each large table of n-grams: nearly all that the sample trains
SETTINGS = "context_length n_head position rope_base ngram_at ngram_rows".split()


def models():
    """What the page embeds: {"models": {version: ...}, "vocabularies": {sha256: ...}}.

    Versions without published weights are left out, and those between two others: v1_1 has the
    model of v1.
    """
    from safetensors import safe_open

    found = {"models": {}, "vocabularies": {}}
    for version in store.versions():
        stem = store.ROOT / "results" / "models" / version
        path = stem.with_suffix(".safetensors")
        if "_" in version or not path.exists():
            continue
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
            metadata = file.metadata()
        packed = pack(tensors, json.loads(metadata["config"]))
        vocabulary = metadata["tokenizer"]
        found["models"][version] = {"version": version, "vocabulary": vocabulary, **packed}
        if vocabulary not in found["vocabularies"]:
            tokenizer = BPETokenizer.load(f"{stem}-tokenizer.json")
            found["vocabularies"][vocabulary] = pack_vocabulary(tokenizer)
    return found


def pack_vocabulary(tokenizer):
    """A BPETokenizer as bpe.js takes it."""
    return {
        "pattern": javascript(tokenizer.pattern),
        "merges": [id for pair in tokenizer.merges for id in pair],
        "special": tokenizer.special_tokens,
    }


def javascript(pattern):
    """A split pattern in the regular expressions of JavaScript.

    Those have no possessive quantifiers. None of the patterns of `bpe_tokenizer.py` would match
    anything else without them.
    """
    for ours, theirs in {
        "(?i:[sdmt]|ll|ve|re)": "(?:[sdmtSDMT\u017f]|[lL][lL]|[vV][eE]|[rR][eE])",
        "?+": "?",
        "++": "+",
        r"\s": r"\p{White_Space}",
        r"\S": r"\P{White_Space}",
    }.items():
        pattern = pattern.replace(ours, theirs)
    return pattern


# ---- Packing -------------------------------------------------------------------------------------


def pack(tensors, config):
    """A model as model.js takes it: {"config", "tensors": [what each is], "data": base64}.

    tensors: {name: float32 array of one or two dimensions}; config: all settings of the run.
    """
    parts, about = [], []
    for name, tensor in tensors.items():
        kind = kind_of(name, tensor)
        arrays, kept = PACK[kind](tensor)
        parts += [np.ascontiguousarray(array) for array in arrays]
        about.append({"name": name, "kind": kind, "shape": list(tensor.shape), "kept": kept})
    data = base64.b64encode(b"".join(part.tobytes() for part in parts)).decode("ascii")
    config = {key: config[key] for key in SETTINGS if config.get(key) is not None}
    if not config.pop("ngram_rows", 0):  # without tables nothing is added anywhere
        config.pop("ngram_at", None)
    return {"config": config, "tensors": about, "data": data}


def kind_of(name, tensor):
    """Which of PACK a tensor takes."""
    if tensor.ndim == 1:
        return "float32"
    if name.startswith("ngrams.tables"):
        return "rows"
    return "probable" if name == "table.weight" and tensor.size >= LARGE else "int8"


def pack_float32(vector):
    return [vector.astype("<f4")], None


def pack_int8(matrix):
    scales = np.abs(matrix).max(axis=1) / 127
    whole = np.rint(matrix / np.where(scales == 0, 1, scales)[:, None])
    return [scales.astype("<f4"), whole.astype("int8")], None


def pack_probable(table):
    """The logits of probable tokens. A row's others get one value, so that the sum of their
    exponentials, and with it their probability, is what it was.
    """
    powers = np.exp(table.astype(np.float64))
    kept = powers > PROBABLE * powers.sum(axis=1, keepdims=True)
    kept &= table > table.min(axis=1, keepdims=True)  # nothing of a row that was never updated
    others = np.log((powers * ~kept).sum(axis=1) / (~kept).sum(axis=1))
    scales, whole = pack_int8(table)[0]
    # Three digits, the same on every machine.
    numbers = [others.round(3).astype("<f4"), scales, kept.sum(axis=1).astype("<u2")]
    return [*numbers, np.nonzero(kept)[1].astype("<u2"), whole[kept]], int(kept.sum())


def pack_rows(table):
    """The longest of the rows that are not zero."""
    lengths = np.linalg.norm(table, axis=1)
    places = np.sort(np.argsort(-lengths, kind="stable")[: min(LONGEST_ROWS, (lengths > 0).sum())])
    return [places.astype("<u4"), *pack_int8(table[places])[0]], len(places)


PACK = {
    "float32": pack_float32,
    "int8": pack_int8,
    "probable": pack_probable,
    "rows": pack_rows,
}


# ---- Unpacking -----------------------------------------------------------------------------------


def unpack(packed):
    """The rounded weights of what `pack` returns, {name: float32 array}, as model.js reads them."""
    data, at, tensors = base64.b64decode(packed["data"]), 0, {}

    def take(kind, *shape):
        nonlocal at
        array = np.frombuffer(data, kind, int(np.prod(shape)), at).reshape(shape)
        at += array.nbytes
        return array

    for about in packed["tensors"]:
        shape, kept = about["shape"], about["kept"]
        if about["kind"] == "float32":
            tensor = take("<f4", *shape)
        elif about["kind"] == "int8":
            tensor = take("<f4", shape[0], 1) * take("int8", *shape)
        elif about["kind"] == "probable":
            others, scales = take("<f4", shape[0], 1), take("<f4", shape[0])
            rows = np.repeat(np.arange(shape[0]), take("<u2", shape[0]))
            tensor, places = np.repeat(others, shape[1], axis=1), take("<u2", kept)
            tensor[rows, places] = scales[rows] * take("int8", kept)
        else:
            tensor, places = np.zeros(shape, np.float32), take("<u4", kept)
            tensor[places] = take("<f4", kept, 1) * take("int8", kept, shape[1])
        tensors[about["name"]] = tensor.astype(np.float32)
    return tensors
