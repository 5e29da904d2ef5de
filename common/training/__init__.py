"""A training run: its folder, checkpoints, log, signals, devices and processes."""

from common.training.run import Run

__all__ = ["Run"]
