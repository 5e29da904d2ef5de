"""v5_adamw: v5 with AdamW in the place of Muon, for the matrices of the blocks.

--muon-learning-rate is its step size; the embeddings, the output head and the vectors keep theirs.
So it tells what Muon is worth from what larger steps of the others are. An ablation of v5.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import v5
from common.cli import run_main
from common.training import Run

import torch


class Config(v5.Config):
    """v5's settings; the default folder has this script's name."""


class AdamW(torch.optim.AdamW):
    """AdamW, with the arguments of v5's Muon."""

    def __init__(self, matrices, lr, weight_decay, dtype):
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.95), fused=True)


v5.Muon = AdamW
v5.Config, v5.__doc__ = Config, __doc__
v5.Run = lambda config, _, description: Run(config, __file__, description)
LanguageModel, generate, main = v5.LanguageModel, v5.generate, v5.main

if __name__ == "__main__":
    run_main(main)
