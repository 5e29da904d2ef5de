"""Means, differences and their intervals, as numbers and as text.

A difference is claimed only between runs of the same seeds, at least three, and with the 95 %
confidence interval of the paired difference.
"""

import math
import statistics


def mean_and_deviation(values):
    """Mean and sample standard deviation (None for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def difference(before, after):
    """Mean of after - before over the seeds that both have, and its 95 % confidence interval.

    before, after: {seed: number}. Returns (mean, low, high), of the paired t-test; None with fewer
    than three seeds in common.
    """
    from scipy.stats import ttest_rel

    seeds = sorted(set(before) & set(after))
    if len(seeds) < 3:
        return None
    pairs = [after[seed] for seed in seeds], [before[seed] for seed in seeds]
    mean = statistics.fmean(a - b for a, b in zip(*pairs, strict=True))
    if len({a - b for a, b in zip(*pairs, strict=True)}) == 1:
        return mean, mean, mean  # no variance, of which the test would only warn
    interval = ttest_rel(*pairs).confidence_interval(0.95)
    return mean, float(interval.low), float(interval.high)


def prediction_interval(values):
    """Where one more value of the same normal distribution lies with a probability of 95 %.

    mean ± t s √(1 + 1/n), Student's t with n - 1 degrees of freedom; None for fewer than three.
    """
    from scipy.stats import t

    values = list(values)
    if len(values) < 3:
        return None
    mean, deviation = mean_and_deviation(values)
    margin = float(t.ppf(0.975, len(values) - 1)) * deviation * math.sqrt(1 + 1 / len(values))
    return mean - margin, mean + margin


def bits_by_seed(results):
    """{seed: bits per byte} of {seed: Result}."""
    return {seed: result.val_bits_per_byte for seed, result in results.items()}


def mean(results, key):
    """The mean of an attribute of {seed: Result}; None where a result lacks it."""
    values = [getattr(result, key) for result in results.values()]
    return None if None in values else statistics.fmean(values)


def lossy_mark(results):
    """What follows the bits per byte of a vocabulary that leaves something out, else nothing."""
    return "" if all(result.tokenizer.lossless for result in results) else " (lossy)"


def spread(results):
    """Mean ± standard deviation of the bits per byte, and the number of seeds, as text."""
    mean, deviation = mean_and_deviation(list(bits_by_seed(results).values()))
    around = "" if deviation is None else f" ± {deviation:.3f}"
    return f"{mean:.3f}{around} ({len(results)}){lossy_mark(results.values())}"


def delta(before, after):
    """`difference` of the bits per byte of {seed: Result}, as text; "" where nothing is claimed."""
    found = difference(bits_by_seed(before), bits_by_seed(after))
    if found is None:
        return ""
    mean, low, high = found
    significant = "" if low > 0 or high < 0 else ", n.s."
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]{significant}"
