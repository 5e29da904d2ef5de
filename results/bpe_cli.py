"""The command line of bpe_tokenizer.py: train, encode, decode and show byte-level BPE."""

import contextlib
import os
import sys
from itertools import accumulate, cycle, pairwise
from pathlib import Path
from typing import Annotated

from bpe_tokenizer import END_OF_TEXT, PATTERNS, BPETokenizer
from common.cli import run_main
from common.data import load_corpus
from common.data.reading import kind_of, opened
from common.errors import UserError, reason_of
from common.files import atomic_write, open_regular
from results.commands import run_command

import numpy as np
from tqdm.utils import disp_len  # the columns that a text takes in a terminal
from tyro.conf import Positional, arg

# What --help calls them.
Text = Annotated[str | None, arg(metavar="[TEXT]")]
File = Annotated[str | None, arg(metavar="FILE")]
COLOURS = (153, 223, 157, 218, 189, 229)  # pale backgrounds of the 256-colour palette, in turn


def train(
    data: str = "sample",
    data_dir: Annotated[str | None, arg(metavar="FOLDER")] = None,
    vocab_size: int = 4096,
    pattern: str = "gpt4",
    special: tuple[str, ...] = (END_OF_TEXT,),
    out: File = "vocab.json",
):
    """Learn a vocabulary from text.

    Args:
        data: a text file, all of it, or a corpus, its training split
        data_dir: a folder that a corpus is read from, instead of the hub
        vocab_size: the number of ids, those of special tokens counted
        pattern: the split pattern: gpt2, gpt4, whitespace, or a regular expression
        special: the special tokens
        out: the vocabulary's file
    """
    if os.path.isdir(out) or not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise UserError(f"--out {out}: it has to be a file's name in a folder that exists")
    if os.path.exists(out):
        try:
            BPETokenizer.load(out)
        except UserError:
            why = "is there and no BPE vocabulary: give another name, or remove it"
            raise UserError(f"--out {out} {why}") from None
    text, pattern = _training_text(data, data_dir), PATTERNS.get(pattern, pattern)
    tokenizer = BPETokenizer.train(text, vocab_size, pattern, special, progress=True)
    tokenizer.save(out)
    if tokenizer.vocab_size < vocab_size:
        print("every chunk of the text is one token now: there was nothing left to merge")
    print(f"{out}: {tokenizer.vocab_size:,} ids, sha256 {tokenizer.sha256}")


def encode(
    text: Positional[Text] = None,
    file: File = None,
    vocab: File = "vocab.json",
    allow_special: bool = False,
    processes: int = 1,
    out: File = None,
):
    """Text to ids.

    Args:
        text: the text
        file: a text file instead
        vocab: the vocabulary's file
        allow_special: the spelling of a special token is its id, not ordinary text
        processes: how many share the work; pays from some tens of megabytes on
        out: write the ids to this file, .npy for a numpy array, instead of the screen
    """
    tokenizer, text = BPETokenizer.load(vocab), _either("a text", text, file, _read_text)
    with _output(out, file, vocab) as stream:
        if allow_special:
            ids = np.array(tokenizer.encode(text, "all"), tokenizer.dtype)
        else:
            ids = tokenizer.encode_corpus(text, processes)
        if out is not None and out.endswith(".npy"):
            np.save(stream, ids)
        else:
            stream.write(" ".join(map(str, ids.tolist())).encode() + b"\n")


def decode(
    ids: Positional[Annotated[tuple[int, ...], arg(metavar="[ID ...]")]] = (),
    file: File = None,
    vocab: File = "vocab.json",
    out: File = None,
):
    """Ids to text.

    Args:
        ids: the ids
        file: a file of ids instead: .npy, or text
        vocab: the vocabulary's file
        out: write the text to this file instead of the screen
    """
    tokenizer = BPETokenizer.load(vocab)
    with _output(out, file, vocab) as stream:
        stream.write(tokenizer.decode_bytes(_either("ids", ids or None, file, _read_ids)))
    if out is None and sys.stdout.isatty():
        print()


def show(
    text: Positional[Text] = None,
    file: File = None,
    vocab: File = None,
    compare: File = None,
    allow_special: bool = False,
):
    """Show a text's tokens, set apart in colour; those of two vocabularies side by side.

    Args:
        text: the text
        file: a text file instead
        vocab: the vocabulary's file; without it, 1,024 ids are learned from the sample
        compare: another vocabulary's file, whose tokens stand to the right of the first one's
        allow_special: the spelling of a special token is its id, not ordinary text
    """
    text = _either("a text", text, file, _read_text)
    shown = [(name, BPETokenizer.load(name)) for name in (vocab, compare) if name is not None]
    if vocab is None:
        print("no --vocab given: these are 1,024 ids learned from the sample just now")
        sample = load_corpus("sample").pieces("train")
        shown.insert(0, ("the sample's", BPETokenizer.train(sample, 1024, progress=True)))
    encoded = [each.encode(text, "all" if allow_special else ()) for _, each in shown]
    tokens = [[each.vocab[i] for i in ids] for (_, each), ids in zip(shown, encoded, strict=True)]
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if compare is None:
        print(_set_apart(*tokens, colour))
        print(*encoded[0])
    else:
        print(*_side_by_side(tokens, colour), sep="\n")
    n_bytes, n_words = len(text.encode("utf-8")), len(text.split())
    for (name, each), ids in zip(shown, encoded, strict=True):
        n = len(ids)
        print(f"{name}, {each.vocab_size:,} ids: {n} tokens for {n_bytes} bytes:", end=" ")
        print(f"{n_bytes / max(n, 1):.2f} bytes per token; {n_words} words:", end=" ")
        print(f"{n / max(n_words, 1):.2f} tokens per word (fertility)")


def _output(path, *read):
    """A binary stream to the screen, or to a file, which has to be writable before the work and is
    none of those that are read."""
    for other in filter(os.path.exists, filter(None, read)):
        if path is not None and os.path.exists(path) and os.path.samefile(path, other):
            raise UserError(f"--out {path} is read as well: give another name")
    return contextlib.nullcontext(sys.stdout.buffer) if path is None else atomic_write(path)


def _training_text(data, data_dir):
    if os.path.isfile(data) and kind_of(Path(data)) == "text":
        return _read_text(data)
    corpus = load_corpus(data, data_dir)
    if corpus.note:
        print(corpus.note, file=sys.stderr)
    return corpus.pieces("train")


def _read_text(path):
    with opened(path) as file:
        text = file.read().decode("utf-8")  # line ends as they are
    if not text:
        raise UserError(f"{path}: the file is empty")
    return text


def _either(what, given, file, read):
    """What the command line gives, or what is read from the file."""
    if (given is None) == (file is None):
        raise UserError(f"give either {what} or --file")
    return given if file is None else read(file)


def _read_ids(path):
    try:
        if not path.endswith(".npy"):
            return [int(word) for word in _read_text(path).replace(",", " ").split()]
        with open_regular(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)  # no larger than the file
    except Exception as error:  # whatever numpy raises where bytes have changed
        raise UserError(f"{path}: not a file of ids: {reason_of(error)}") from None


def _set_apart(tokens, colour, breaks=True):
    """Tokens on coloured backgrounds, or in brackets. What does not print is shown as an escape,
    so that a text cannot command the terminal; a line end is shown and also made."""
    shown = []
    for token, background in zip(tokens, cycle(COLOURS), strict=False):
        text = token.decode("utf-8", errors="backslashreplace")
        string = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        shown.append(f"\x1b[30;48;5;{background}m{string}\x1b[0m" if colour else f"[{string}]")
        shown.append("\n" * token.count(b"\n") * breaks)
    return "".join(shown)


def _side_by_side(both, colour):
    """A line for each word, with its tokens in two columns.

    both: a text's tokens by two vocabularies, lists of bytes. A token that goes on into the next
    word makes one line of both.
    """
    text = b"".join(both[0])
    # Of each: how many bytes there are before a token -> how many tokens.
    counts = [{n: i for i, n in enumerate(accumulate(map(len, t), initial=0))} for t in both]
    places = sorted(counts[0].keys() & counts[1].keys())
    ends = [n for n in places if n in (0, len(text)) or text[n : n + 1].isspace()]
    rows = [
        [_set_apart(t[at[a] : at[b]], colour, False) for t, at in zip(both, counts, strict=True)]
        for a, b in pairwise(ends)
    ]
    most = max((disp_len(left) for left, _ in rows), default=0) + 2
    return [left + " " * (most - disp_len(left)) + right for left, right in rows]


COMMANDS = {"train": train, "encode": encode, "decode": decode, "show": show}


def main(args=None):
    """Run the command line; errors are one line, and the exit status is 2."""
    run_main(lambda: run_command(COMMANDS, __doc__, args))


if __name__ == "__main__":
    main()
