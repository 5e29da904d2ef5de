"""The vocabulary of a run: the saved one, or the one of its settings."""

import sys

from common.errors import UserError
from common.tokenizers import END_OF_TEXT, load_tokenizer, load_tokenizer_file


def saved_tokenizer(folder, checkpoint, corpus=None):
    """The tokenizer of the run in a folder. Raises UserError where it is not the checkpoint's,
    or where the corpus, if there is one, is not what the run was trained on.
    """
    path, again = folder / "tokenizer.json", "put it back, or train again"
    if not path.exists():
        raise UserError(f"{path} is missing: {again}")
    tokenizer = load_tokenizer_file(path)
    trained = f"the run in {folder} was trained"
    if checkpoint["tokenizer"] != tokenizer.sha256:
        raise UserError(f"{trained} with another vocabulary than {path} holds: {again}")
    if corpus is not None and checkpoint["data"] != corpus.sha256:
        raise UserError(f"{trained} on another text than {corpus.name} holds now: {again}")
    return tokenizer


def new_tokenizer(config, corpus):
    """(tokenizer, notes): the one of the settings, and lines that people should read."""
    about = config.vocab_size, config.split_pattern, (END_OF_TEXT,) if config.end_of_text else ()
    tokenizer = load_tokenizer(config.tokenizer, corpus, *about)
    notes = [f"{corpus.name}: {corpus.note}"] if corpus.note else []
    if config.tokenizer == "bpe" and tokenizer.vocab_size < config.vocab_size:
        sizes = f"{tokenizer.vocab_size:,} tokens of {config.vocab_size:,}"
        notes.append(f"vocabulary: {sizes}, since every chunk of the text is one token by then")
    return tokenizer, notes


def note_last_space(prompt, tokenizer):
    """Where tokens begin with a space, say that the prompt had better not end in one."""
    own = any(len(token) > 1 and token[:1] in (" ", b" ") for token in tokenizer.vocab)
    if prompt.endswith(" ") and own:
        note = "the prompt ends in a space, but in this vocabulary a word brings its own along"
        print(f"{note}: without the last space the text continues better", file=sys.stderr)
