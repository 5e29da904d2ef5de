"""A training run: its folder, checkpoints, log, signals, devices and processes."""
