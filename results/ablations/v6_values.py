"""v6_values: v6's n-grams added to the values of attention, in every block.

The row that is looked up is as wide as the values of a position. Attention then hands it on to
later positions, and nothing of it reaches queries, keys or the residual stream of its own position
but through attention. An ablation of v6.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import v6
from common.cli import run_main
from common.errors import UserError
from common.training import Run

import torch.nn.functional as F


class Config(v6.Config):
    """v6's settings; the default folder has this script's name."""


def init(self, config, vocab_size, original=v6.LanguageModel.__init__):
    if config.ngram_gate or not config.ngram_rows:
        raise UserError("v6_values needs --ngram-rows and has no gate")
    original(self, config, vocab_size)
    width = config.n_embd // config.n_head * config.n_kv_head  # that of the values, G D
    for table in self.ngrams.tables:
        table.weight.data = table.weight.data[:, :width].clone()
    for block in self.blocks:
        block.attention.qkv.register_forward_hook(self.ngrams.add_to_values)


def look_up(self, tokens, x, original=v6.NgramEmbedding.forward):
    width = self.tables[0].weight.shape[1]
    self.rows = original(self, tokens, x.new_zeros(*x.shape[:2], width))  # (B, T, G D)
    return x


def add_to_values(self, module, inputs, qkv):  # (B, T, C + 2 G D)
    return qkv + F.pad(self.rows, (qkv.shape[-1] - self.rows.shape[-1], 0)).type_as(qkv)


v6.LanguageModel.__init__ = init
v6.NgramEmbedding.forward, v6.NgramEmbedding.add_to_values = look_up, add_to_values
v6.Config, v6.__doc__ = Config, __doc__
v6.Run = lambda config, _, description: Run(config, __file__, description)
LanguageModel, generate, main = v6.LanguageModel, v6.generate, v6.main

if __name__ == "__main__":
    run_main(main)
