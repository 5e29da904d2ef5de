"""v2_mean: v2's attention with uniform weights.

Each position takes the plain mean of the values up to itself: queries and keys have no effect. An
ablation of v2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import v2
from common.cli import run_main
from common.training import Run

import torch.nn.functional as F


class Config(v2.Config):
    """v2's settings; the default folder has this script's name."""


def attend(self, q, k, v, mask):  # (B, H, T, D) each, and (T, T): 0 or minus infinity ahead
    return F.softmax(mask, dim=-1).to(v.dtype) @ v  # (B, H, T, D)


v2.CausalSelfAttention.attend = attend
v2.Config, v2.__doc__ = Config, __doc__
v2.Run = lambda config, _, description: Run(config, __file__, description)
LanguageModel, generate, main = v2.LanguageModel, v2.generate, v2.main

if __name__ == "__main__":
    run_main(main)
