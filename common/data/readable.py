"""WikiText made readable: its spaces around punctuation undone."""

import re


def detokenize(text: str) -> str:
    """WikiText for reading: undo the spaces that it puts around punctuation.

    Training and evaluation use the official text; only what is shown to people passes here.
    """
    return "\n".join(_detokenize_line(line) for line in text.split("\n"))


def _detokenize_line(line):
    line = line.strip(" ")
    heading = re.fullmatch(r"((?:= )+)(.*?)((?: =)+)", line)
    if heading:
        marks = "=" * heading[1].count("=")
        return f"{marks} {_detokenize_line(heading[2])} {'=' * heading[3].count('=')}"
    line = re.sub(r" @([-,.])@(?: |$)", r"\1", line)  # well @-@ known, 1 @,@ 000, 0 @.@ 5
    line = re.sub(r" (n't|'(?:s|m|d|re|ve|ll))(?!\S)", r"\1", line)
    line = _pair(line, '"')
    line = _pair(line, "'")
    line = re.sub(r" ([,.;:!?%)\]”…]|\.\.\.)(?=\W|$)", r"\1", line)
    line = re.sub(r"([(\[“]) ", r"\1", line)
    line = re.sub(r"\b(US|AU|NZ|HK|C|A) (?=\$ ?\d)", r"\1", line)
    line = re.sub(r"([$£€¥₤#]) (?=\d)", r"\1", line)
    line = re.sub(r"(?<=\d) ([°′″])", r"\1", line)
    line = re.sub(r"° (?=[CF]\b)", "°", line)
    line = re.sub(r"(?<=\d) ([–/]) (?=\d)", r"\1", line)  # 2013 – 14
    return re.sub(r"(?<=\w) / (?=\w)", "/", line)


def _pair(line, quote):
    """Lone quotation marks open and close by turns, and lean on what they enclose.

    After an s one may be a genitive, the players ' kit: it is when the others pair up without it.
    """
    text, *parts = re.split(rf"(?:(?<= )|^){quote}(?= |$)", line)
    opened = False
    after_s = [part.endswith("s ") and quote == "'" for part in [text, *parts[:-1]]]
    for i, part in enumerate(parts):
        others = after_s[i + 1 :].count(False)
        if opened or not part or (after_s[i] and others % 2 == 0):
            text = text.removesuffix(" ") + quote + part
            opened = False
        else:
            text += quote + part.removeprefix(" ")
            opened = True
    return text
