"""Does changed code train as before? Then what was published of the older code stays valid.

    python -m results.same ../older [--steps 40]

A change that makes a script clearer, or its sampling quicker, would outdate all its published runs.
So the script of an older checkout and today's train for a few steps with each of the plan's
settings. Where all of their weights and losses are equal, bit for bit, results/same-code.json notes
that today's code counts as the older one. Samples are not compared.
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from results import plan, store
from results.benchmarks.measure import command
from results.scripts import code_sha256, same_code
from results.store import read_points, read_result

from safetensors.numpy import load_file


def main(older: Path, steps: int = 40):
    """Train with the older scripts and with today's, and note which of them do the same.

    Args:
        older: a checkout of this project from before the change
        steps: of each run
    """
    scripts = list(dict.fromkeys(run.script_path().relative_to(store.ROOT) for run in plan.PLAN))
    for script in sorted(scripts, key=lambda path: len(path.parts)):  # ablations import versions
        roots = older, store.ROOT
        old, new = (code_sha256(root / script) for root in roots)
        if old == new:
            continue
        for run in (run for run in plan.PLAN if run.script_path() == store.ROOT / script):
            print(f"{script}: {run.name}")
            with ThreadPoolExecutor() as pool:
                before, now = pool.map(partial(trained, run, script, steps), roots)
            if before != now:
                raise UserError(f"{run.name} differs: `python -m results publish` makes it again")
        write_json(store.ROOT / "results" / "same-code.json", same_code() | {new: old})


def trained(run, script, steps, root):
    """The weights and the losses of a short run of the script that lies in root."""
    given = " ".join(run.arguments()).replace("--data more.txt", "").split()
    given += ["--steps", str(steps), "--eval-every", str(steps // 2)]  # the last one holds
    with tempfile.TemporaryDirectory() as folder:
        args = [sys.executable, str(script), *given, "--out-dir", folder]
        done = subprocess.run(args, cwd=root, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise UserError(f"{run.name} stopped: {done.stderr}")
        weights = load_file(Path(folder, "model.safetensors"))
        losses = [(point.train_loss, point.val_loss) for point in read_points(folder)]
        windows = read_result(Path(folder, "result.json")).extrapolation
    return {name: array.tobytes() for name, array in weights.items()}, losses, windows


if __name__ == "__main__":
    command(main, __doc__)
