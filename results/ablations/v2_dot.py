"""v2_dot: v2's attention with plain dot products, without query, key and value projections.

Query, key and value are the normalized residual stream itself, split into heads: similar positions
attend to each other, and nothing is learned about what to look for. An ablation of v2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import v2
from common.cli import run_main
from common.training import Run

import torch.nn as nn


class Config(v2.Config):
    """v2's settings; the default folder has this script's name."""


class Same(nn.Module):
    def forward(self, x):  # (B, T, C) -> (B, T, 3 * C): x as query, key and value
        return x.repeat(1, 1, 3)


def init(self, config, original=v2.CausalSelfAttention.__init__):
    original(self, config)
    self.qkv = Same()


v2.CausalSelfAttention.__init__ = init
v2.Config, v2.__doc__ = Config, __doc__
v2.Run = lambda config, _, description: Run(config, __file__, description)
LanguageModel, generate, main = v2.LanguageModel, v2.generate, v2.main

if __name__ == "__main__":
    run_main(main)
