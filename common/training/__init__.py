"""A training run: its folder, checkpoints, log, signals, devices and processes."""


def __getattr__(name):
    if name != "Run":
        raise AttributeError(f"module 'common.training' has no attribute {name!r}")
    from common.training.run import Run  # torch is imported only for this

    return Run
