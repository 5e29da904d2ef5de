"""loss.png: a run's own curve."""


def draw_loss(metrics, path, title, entropy=None):
    """Training and validation loss against steps, from the lines of metrics.jsonl.

    entropy: the entropy of the corpus in bits per byte, where it is known: the lower bound of the
    expected loss.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bits = metrics[-1]["val_bits_per_byte"] / metrics[-1]["val_loss"]  # per nat and token
    for name, label, marker in (("train_loss", "training", ""), ("val_loss", "validation", "o")):
        rows = [row for row in metrics if row[name] is not None]
        losses = [row[name] * bits for row in rows]
        axes.plot([row["step"] for row in rows], losses, label=label, marker=marker)
    if entropy:
        axes.axhline(entropy, color="black", linestyle=":", label="entropy of the corpus")
    axes.set(xlabel="step", ylabel="bits per byte", yscale="log", title=title)
    axes.title.set_parse_math(False)  # a $ in a name is a $
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
