"""v2_mean: v2's attention with uniform weights.

Each position takes the plain mean of the values up to itself: queries and keys have no effect. An
ablation of v2.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import v2
from common.cli import run_main


@dataclass
class Config(v2.Config):
    out_dir: str = f"runs/{Path(__file__).stem}"  # folder of the run's files


def attend(self, q, k, v, mask):  # (B, H, T, D) each, and (T, T): 0 or minus infinity ahead
    return F.softmax(mask, dim=-1).type_as(v) @ v  # (B, H, T, D)


v2.CausalSelfAttention.attend = attend
v2.Config, v2.__file__, v2.__doc__ = Config, __file__, __doc__
LanguageModel, generate, main = v2.LanguageModel, v2.generate, v2.main

if __name__ == "__main__":
    run_main(main)
