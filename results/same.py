"""Does changed code train as before? Then what was published of the older code counts as today's.

    python -m results.same ../older

A change that makes a script clearer, or its sampling quicker, would outdate all its published runs.
So the script of an older checkout and today's train with each of the plan's settings for a few
steps, which hold a short warm-up and the whole decay. Where their defaults, all their weights and
all losses are equal, bit for bit, results/same-code.json notes that today's code counts as the
older one. Sampling is not compared.
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
from results.saved import load_script
from results.scripts import code_sha256, same_code
from results.store import read_points, read_result

from safetensors.numpy import load_file

STEPS, WARMUP = 40, 10


def main(older: Path):
    """Train with the older scripts and with today's, and note which of them do the same.

    Args:
        older: a checkout of this project from before the change
    """
    roots = older.resolve(), store.ROOT
    runs = {}  # script -> its runs
    for run in plan.PLAN:
        runs.setdefault(run.script_path().relative_to(store.ROOT), []).append(run)
    # With code, or with a version that an ablation imports, that has changed.
    changed = [script for script in runs if len(hashes(script, roots)) == 2]
    for script in changed:
        old, new = (vars(load_script(root / script).Config()) for root in roots)
        if old != new:
            raise UserError(f"{script} has other defaults: `python -m results publish`")
        for run in runs[script]:
            print(f"{script}: {run.name}")
            with ThreadPoolExecutor() as pool:
                before, now = pool.map(partial(trained, run, script, "warmup_steps" in new), roots)
            if before != now:
                raise UserError(f"{run.name} differs: `python -m results publish` makes it again")
    for script in sorted(changed, key=lambda path: len(path.parts)):  # ablations come last
        if len(found := hashes(script, roots)) == 2:
            known = same_code() | {found[1]: found[0]}
            write_json(store.ROOT / "results" / "same-code.json", known)


def hashes(script, roots):
    """The different hashes of a script's code in the two checkouts."""
    return list(dict.fromkeys(code_sha256(root / script) for root in roots))


def trained(run, script, warms_up, root):
    """The weights and the losses of a short run of the script that lies in root."""
    given = ["--warmup-steps", str(WARMUP)] * warms_up  # of a flag's values the last one holds
    given += " ".join(run.arguments()).replace("--data more.txt", "").split()
    given += ["--steps", str(STEPS), "--eval-every", str(STEPS // 2)]
    with tempfile.TemporaryDirectory() as folder:
        args = [sys.executable, str(script), *given, "--out-dir", folder]
        done = subprocess.run(args, cwd=root, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise UserError(f"{run.name} stopped: {done.stderr}")
        weights = load_file(Path(folder, "model.safetensors"))
        losses = [(point.train_loss, point.val_loss) for point in read_points(folder)]
        windows = read_result(Path(folder, "result.json")).extrapolation
    weights = {n: (array.shape, array.dtype, array.tobytes()) for n, array in weights.items()}
    return weights, losses, windows


if __name__ == "__main__":
    command(main, __doc__)
