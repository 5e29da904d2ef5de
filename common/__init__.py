"""What is the same in every version and is no lesson: corpora, tokenizers, evaluation, runs.

The scripts import this package before torch, so that what the environment has to hold when torch
loads its libraries can be set here.
"""

import os

# OpenMP's threads wait for one another by spinning, and while another program holds a core they
# spin in vain: on a busy laptop training would all but stop. After so many rounds they sleep: long
# enough to cost nothing on a quiet machine, where sleeping at once cost v4 nearly half its speed.
# GNU's OpenMP, which torch has on Linux, reads this when torch is loaded. A setting of your own is
# respected.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
