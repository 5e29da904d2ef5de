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
    # Lone quotation marks open and close by turns, and lean on what they enclose.
    line = re.sub(r'(?<!\S)" (.+?) "(?!\S)', r'"\1"', line)
    line = re.sub(r"(?<!s )(?<!\S)' (.+?) '(?!\S)", r"'\1'", line)
    line = re.sub(r"(?<=s) '(?!\S)", "'", line)  # a genitive, the players ' kit
    line = re.sub(r"(?<!\S)(['\"]) (?=\S)", r"\1", line)  # never closed
    line = re.sub(r" ([,.;:!?%)\]”…]|\.\.\.)(?=\W|$)", r"\1", line)
    line = re.sub(r"([(\[“]) ", r"\1", line)
    line = re.sub(r"\b(US|AU|NZ|HK|C|A) (?=\$ ?\d)", r"\1", line)
    line = re.sub(r"([$£€¥₤#]) (?=\d)", r"\1", line)
    line = re.sub(r"(?<=\d) ([°′″])", r"\1", line)
    line = re.sub(r"° (?=[CF]\b)", "°", line)
    line = re.sub(r"(?<=\d) ([–/]) (?=\d)", r"\1", line)  # 2013 – 14
    return re.sub(r"(?<=\w) / (?=\w)", "/", line)
