"""Each version's peak memory compared with its own estimate, with a longer corpus, and what kept
memory is worth.

    python -m results.benchmarks.memory [--rounds 3]

The first table needs Linux, which says what a process holds. Each version trains a few steps; what
that adds at most to what the process held before, with the parameters, less what it adds for a
model of next to nothing (threads, libraries), is compared with what the run said that a step needs:
parameters, gradients, optimizer, activations. The last table is v3's step with logits of 128 MiB:
with the memory that it frees kept for the next step, as every run has it, and without.
"""

import platform
import statistics
import tempfile
from functools import partial
from pathlib import Path

from results.benchmarks.measure import command, in_turn, machine, result_of, spread
from results.saved import load_script
from results.store import ROOT, versions

LARGE = {"vocab_size": 8192, "context_length": 256, "batch_size": 16, "n_embd": 256, "n_layer": 4}
LARGE |= {"grad_accum": 2}  # micro-batches one after the other: memory for one of them
NOTHING = {"vocab_size": 300, "context_length": 8, "batch_size": 1, "n_embd": 8, "n_layer": 1}
NOTHING |= {"grad_accum": 1}
STEP = {"vocab_size": 8192, "context_length": 256, "batch_size": 16}

# Runs a script so that its "peak" is what training adds at most to what the process held before.
WATCHED = """
import ctypes, platform, runpy, sys
sys.path.insert(0, sys.argv[1])
from common.training import run, summary
save, log, before, peaks = run.Run.save_checkpoint, run.Run.log_step, [], []
peak = summary.peak_rss_mb
def saved(self, step):
    save(self, step)
    if not before:  # the first step comes next
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # what is free by now is no part of it
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is reset
        before.append(peak())
def logged(self, *args):
    log(self, *args)
    peaks[:] = [peak() - before[0]]  # after the last step, before it is evaluated
run.Run.save_checkpoint, run.Run.log_step = saved, logged
summary.peak_rss_mb = lambda: peaks[0]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(rounds: int = 3):
    print(f"{machine()}, {' '.join(platform.libc_ver())}, MB (10^6 bytes)")
    print(f"the sample: {', '.join(f'{name} {value:,}' for name, value in LARGE.items())}\n")
    print(f"{'':8} estimate    peak   ratio")
    for version in versions():
        print(estimate_and_peak(version, rounds))
    print("\nversion   peak with the sample's text once   20 times   ratio")
    text = (ROOT / "data" / "input.txt").read_bytes()
    for version in ("v1", "v1_1"):
        once, often = (longer_corpus(version, text * times) for times in (1, 20))
        print(f"{version:8} {once:34.0f} {often:10.0f} {often / once:7.2f}")
    print(f"\nv3, {', '.join(f'{name} {value:,}' for name, value in STEP.items())}")
    limits = {}, {"MALLOC_MMAP_THRESHOLD_": str(2**25)}  # the latter is glibc's own largest limit
    runs = {len(limit): partial(result, "v3", STEP, **limit) for limit in limits}
    kept, freed = in_turn(runs, rounds).values()
    for name in ("tokens_per_second", "peak_rss_mb"):
        ratio = spread(*([run[name] for run in runs] for runs in (kept, freed)))
        print(f"{name} where freed memory is kept, compared with where it is not: x {ratio}")


def estimate_and_peak(version, rounds):
    """A line of the first table."""
    bases, peaks = [], []
    for _ in range(rounds + 1):  # the first makes vocabulary and token files, too
        bases.append(result(version, NOTHING, watched=True)["peak_rss_mb"])
        made = result(version, LARGE, watched=True)
        estimate = made["memory_estimate_mb"]
        peaks.append(made["peak_rss_mb"] + estimate["parameters"])  # there before training
    base, total = statistics.median(bases[1:]), sum(estimate.values())
    took = [peak - base for peak in peaks[1:]]
    parts = " + ".join(f"{name} {value:.0f}" for name, value in estimate.items())
    ratio = spread(took, [total] * rounds)
    return f"{version:8} {total:8.0f} {statistics.median(took):7.0f}   x {ratio}   {parts}"


def longer_corpus(version, text):
    """The peak of a run on a text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_bytes(text)
        return result(version, {"data": path})["peak_rss_mb"]


def result(version, settings, watched=False, **env):
    """What a run of four steps leaves in result.json; `watched`: its peak is what training adds."""
    settings = {**settings, "steps": 4, "eval_every": 4, "max_new_tokens": 1}
    fields, args = load_script(ROOT / f"{version}.py").Config.__dataclass_fields__, []
    for name in settings.keys() & fields.keys():
        args += ["--" + name.replace("_", "-"), settings[name]]
    args += ["--no-long-contexts"] if "long_contexts" in fields else []
    return result_of(version, args, ["-c", WATCHED, ROOT] * watched, **env)


if __name__ == "__main__":
    command(main, __doc__)
