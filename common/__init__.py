"""What is the same in every version and is no lesson: corpora, tokenizers, evaluation, runs.

The scripts import this package before torch, so that what the environment has to hold when torch
loads its libraries can be set here.
"""

import os

# OpenMP's threads wait for one another by spinning, and while another program holds a core they
# spin in vain: with passive waiting a busy laptop trains many times as fast. It is read when torch
# is loaded. Your own setting is respected.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
