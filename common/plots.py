"""Pictures of runs. matplotlib is imported when a picture is drawn: it is slow to load."""

from common.files import atomic_write


def loss_curve(metrics, path, title, floor=None):
    """The run's bits per byte over its steps as a PNG, with the corpus' entropy floor if known.

    metrics  the lines of metrics.jsonl as dictionaries
    """
    import matplotlib

    matplotlib.use("Agg")  # draws into files: no screen is needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    steps = [row["step"] for row in metrics]
    axes.plot(steps, [row["val_bits_per_byte"] for row in metrics], "k-o", markersize=3)
    if floor:
        axes.axhline(floor, color="0.5", linestyle=":", label=f"entropy floor, {floor:.3f}")
        axes.legend(frameon=False)
    last = metrics[-1]
    axes.annotate(
        f"{last['val_bits_per_byte']:.3f}",
        (last["step"], last["val_bits_per_byte"]),
        textcoords="offset points",
        xytext=(0, 6),
        ha="right",
    )
    axes.set(title=f"{title}: validation", xlabel="step", ylabel="bits per byte", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)
