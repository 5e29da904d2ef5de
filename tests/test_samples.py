"""Samples on the screen: printed while they are written, prompt after prompt."""

import io
from types import SimpleNamespace

from common.config import RunConfig
from common.data.readable import detokenize
from common.errors import UserError
from common.tokenizers.classes import CharTokenizer
from common.training.samples import Printed, interact


def pieces(tokens, readable, capsys):
    """What is printed for the first token of a text, after each further one, and at its end."""
    printed = Printed(
        [0], lambda ids: b"".join(tokens[i] for i in ids).decode("utf-8", "replace"), readable
    )
    found = [capsys.readouterr().out]
    for i in range(1, len(tokens)):
        printed.append(i)
        found.append(capsys.readouterr().out)
    printed.show(ended=True)
    return [*found, capsys.readouterr().out]


def test_a_sample_is_printed_token_by_token_but_no_character_in_parts(capsys):
    tokens = [b"At", b" the", b" caf", b"\xc3", b"\xa9", b".", b"\xe4"]
    assert pieces(tokens, str, capsys) == ["At", " the", " caf", "", "é", ".", "", "\ufffd\n"]


def test_text_that_is_made_readable_is_printed_line_by_line(capsys):
    tokens = [b"well @", b"-@", b" known\n", b" 1 @,@", b" 000 ."]
    assert pieces(tokens, detokenize, capsys) == ["", "", "well-known\n", "", "", "1,000.\n"]


def session(lines, generate, monkeypatch, **settings):
    """Type these lines into a session."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    config = RunConfig(interactive=True, prompt="One", **settings)
    run = SimpleNamespace(config=config, readable=str, device="cpu")
    interact(run, None, CharTokenizer.train(["One Two!"]), generate)


def test_an_empty_line_asks_for_further_samples_of_the_same_prompt(monkeypatch, capsys):
    calls = []

    def generate(model, config, tokenizer, device):
        tokenizer.encode(config.prompt)
        calls.append((config.prompt, config.seed))

    session(["", "Two", ""], generate, monkeypatch, seed=5, n_samples=2)
    assert calls == [("One", 7), ("One", 8), ("Two", 5), ("Two", 6), ("Two", 7), ("Two", 8)]


def test_ctrl_c_ends_a_sample_and_an_error_ends_nothing(monkeypatch, capsys):
    def generate(model, config, tokenizer, device):
        if config.prompt == "Two":
            raise UserError("no such letter")
        ids = tokenizer.encode(config.prompt)
        if config.prompt == "One":
            ids.append(ids[0])
            raise KeyboardInterrupt

    session(["One", "Two", "Two!", "a\0b"], generate, monkeypatch)
    out, err = capsys.readouterr()
    assert out == "> OneO\n> > Two!\n> > \n"
    assert "no such letter\n" in err and "--prompt" in err
