"""Published results, and the tools that make, compare and draw them: `python -m results --help`.

`from results import load_run` opens a finished run, load_run("runs/v4"), or a published one,
load_run("v4"): its model, settings and vocabulary.
"""


def __getattr__(name):
    if name != "load_run":
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    from results.saved import load_run  # torch is imported only for this

    return load_run
