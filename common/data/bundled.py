"""The corpus that needs no file of the user's: the bundled sample."""

import hashlib
import re

from common.data.cache import REPOSITORY
from common.data.corpus import SPLITS, Corpus
from common.errors import UserError
from common.files import read_json


def sample(folder=REPOSITORY / "data") -> Corpus:
    """The bundled stories. Their generator knows what every choice cost, hence the entropy."""
    parts, entropy = {}, {}
    try:
        info = read_json(folder / "input.json", "the sample's description")
        text = (folder / "input.txt").read_bytes()
        for split in SPLITS:
            one = info["splits"][split]
            parts[split] = text[one["offset"] : one["offset"] + one["bytes"]]
            entropy[split] = float(one["floor_bits_per_byte"])
            if hashlib.sha256(parts[split]).hexdigest() != one["sha256"]:
                raise UserError(f"the {split} split was edited, or its line ends converted")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"cannot read the sample corpus, {folder / 'input.txt'} or input.json is damaged or"
            f" missing: {error}; run python data/world.py to make it again"
        ) from None

    def read(split):  # stories, each with the blank line after it
        return iter(re.findall(r".+?(?:\n\n|$)", parts[split].decode("utf-8"), re.DOTALL))

    return Corpus("sample", documents=True, read=read, entropy=entropy, prompt="One morning")
