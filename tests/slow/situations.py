"""The situations that tests/slow/test_situations.py tries: a table, group by group.

A command is a line as a user would type it, in a folder that holds the inputs of INPUTS that it
names, `run` and `other` (finished runs of v3 with seeds 1 and 2) and what `files` puts there.
"""

import itertools
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from bpe_tokenizer import BPETokenizer

import damage as bad
from damage import CHECKPOINTS, at, replaced
from inputs import BAD_JSON, CHINESE, TABLES, TEXT, link
from lineage import VERSIONS, flags, load


class Situation(NamedTuple):
    """What is done, and how it has to end.

    files   what is put into the folder before: {path: text, bytes or function(path)}
    says    a regular expression that the output has to hold
    streams for standard output and error: "closed", "full" (a disk), "left" (by the reader); for
            standard input: "typed" (a line that is no UTF-8, and an empty one)
    """

    group: str
    command: str
    status: int = 2
    says: str = ""
    files: dict = {}
    environment: dict = {}
    streams: str = ""


def small(version, **changes):
    """The version's command line for a small model and few steps, and the prompt of the corpus."""
    settings = {"steps": 4, "eval_every": 2, "max_new_tokens": 4, "prompt": None, **changes}
    return shlex.join([version, *flags(load(version), **settings)])


def tries(group, commands, files=({},), status=2, says="", **more):
    """Each of the commands, or the one, with each of the files."""
    commands = [commands] if isinstance(commands, str) else commands
    return [Situation(group, c, status, says, f, **more) for c in commands for f in files]


V0, V1, V2, V3, V4 = map(small, ("v0", "v1", "v2", "v3", "v4"))
CHAR = small("v0", tokenizer="char")

# ---- Texts ---------------------------------------------------------------------------------------

PLAIN = f"{V0} --data plain.txt"
TEXTS = []
for kind, line in {
    "word": r"become <\|unk\|>.*bits per byte \(lossy\).*bits per byte \(lossy: what",
    "char": r"bits per byte\n",
    "bpe": r"bits per byte\n",
}.items():
    TEXTS += tries("texts", f"{V0} --data chinese.txt --tokenizer {kind}", status=0, says=line)
commands = [f"{CHAR} --data {name}.txt" for name in ("same", "ends", "spaces", "line")]
TEXTS += tries("texts", commands, status=0, says="bits per byte")
TEXTS += [
    Situation("texts", PLAIN, 0, "cut from the end of train"),
    Situation("texts", f"{V0} --data .", 0, "a run's folder"),
    Situation("texts", f"{V0} --data t --out-dir ./t", 2, "give the run its own", {"t/a": TEXT}),
]

rows = {"rows.jsonl.gz": TABLES["rows.jsonl.gz"]}
TRAIN = "bpe train --vocab-size 300 --data rows.jsonl.gz"
TEXTS += [Situation("texts", TRAIN, 0, "column 'text' is read", rows)]

# ---- Identity ------------------------------------------------------------------------------------

# What reads a run, which is always called `run`: the commands by the files that they read.
RESUME, SAMPLE = "v3 --resume --steps 6 --out-dir run", "v3 --sample-only --out-dir run"
LOADED = ["results evaluate run", "results plot attention run --prompt The"]
CHECKED = ["results check run", "results compare run other", "results local --folder run"]
CURVES = "results plot curves run"
READS = {
    "config.json": [RESUME, SAMPLE, *LOADED, *CHECKED, CURVES],
    "result.json": [*LOADED, *CHECKED, CURVES],
    "metrics.jsonl": [CURVES],
    "best.pt": [RESUME, SAMPLE, *LOADED],
    "checkpoint.pt": [RESUME],
    "tokenizer.json": [RESUME, SAMPLE, *LOADED],
}
IDENTITY = []
for name, commands in READS.items():
    if name == "tokenizer.json":  # one text has one vocabulary, whatever the seed
        files = {"run/tokenizer.json": BPETokenizer.train(CHINESE, 300).save}
        line = "another (vocabulary|run)"
    else:
        files, line = bad.of_other(name), "of another run"
    IDENTITY += tries("identity", commands, [files], says=line)
FOREIGN = [
    {"config.json": '{"model_type": "gpt2"}', "model.safetensors": "weights"},
    {"model.safetensors": "weights"},
    {"result.json": '{"accuracy": 1}'},
    {"checkpoint.pt": "weights", "train.py": ""},
]
IDENTITY += tries("identity", f"{PLAIN} --out-dir m", at("m", FOREIGN), says="not a run's folder")
# Its folder is the one on the command line, whatever its files say.
moved = {"run/config.json": bad.edited(config={"out_dir": "../mine"})}
moved["run/checkpoint.pt"] = bad.changed("run folder", "../mine")
IDENTITY += [
    Situation("identity", RESUME, 0, "bits per byte", moved),
    Situation("identity", f"{RESUME} --steps 4", 0, "written again", bad.of_other("result.json")),
    Situation("identity", f"{RESUME} --data copy.txt", 0, "resuming", {"copy.txt": TEXT}),
    Situation("identity", f"{RESUME} --data copy.txt", 2, "another text", {"copy.txt": TEXT[1:]}),
    Situation("identity", RESUME, 2, "another text", {"plain.txt": TEXT[:-9]}),
    Situation("identity", f"{RESUME} --seed 5", 2, "seed is 1, not 5"),
    Situation("identity", "v2 --resume --out-dir run", 2, "holds a run of v3"),
    Situation("identity", "v3 --resume --steps 2 --out-dir run", 2, "is at step 4 already"),
    Situation("identity", "v3 --resume --out-dir run", 0, "nothing is left to do"),
]

# ---- Ends ----------------------------------------------------------------------------------------

LOCAL, SHOW = "results local --folder .", "bpe show hello --vocab run/tokenizer.json"
ENDS = [
    *tries("ends", [SAMPLE, "results check run", LOCAL], status=141, streams="left"),
    *tries("ends", [PLAIN, SAMPLE, LOCAL, SHOW], status=141, streams="full"),
    *tries("ends", [PLAIN, SAMPLE, LOCAL, SHOW], status=0, streams="closed"),
    *tries("ends", f"{SAMPLE} --interactive --max-new-tokens 4", status=0, streams="closed"),
    *tries("ends", f"{SAMPLE} --interactive --max-new-tokens 4", status=0, streams="typed"),
    *tries("ends", ["results nonsense", "v0 --nonsense", "bpe x"], streams="closed"),
    Situation("ends", f"{V3} --data plain.txt --out-dir run", 0, r"is now in run\.1"),
    Situation("ends", f"{PLAIN} --out-dir run", 2, "another run is writing", {"run": bad.held}),
    Situation("ends", "v3 --resume --out-dir run", 2, "another run is writing", {"run": bad.held}),
]

# ---- Nothing outside the folder ------------------------------------------------------------------

# `mine` lies next to the folder in which a command runs; the test looks whether it has changed.
OUTSIDE, TO_NEW, MINE = [], f"{V3} --data plain.txt --out-dir new", link("../../mine")
for name in [*READS, "samples.txt", ".lock", "script.py", "loss.png", "model.safetensors"]:
    files = {f"run/{name}": lambda path: path.unlink(missing_ok=True) or MINE(path)}
    OUTSIDE += tries("outside", RESUME, [files], says=re.escape(name))
    OUTSIDE += tries("outside", TO_NEW, [{f"new/{name}": MINE}], says=re.escape(name))
    OUTSIDE += tries("outside", TO_NEW, [{f"new/{name}.tmp": MINE}], status=0)
WRITERS = {  # command that writes: the ending of what it writes
    "bpe train --data plain.txt --vocab-size 260 --out": "json",
    "bpe encode hello --vocab run/tokenizer.json --out": "npy",
    "bpe decode 65 66 --vocab run/tokenizer.json --out": "txt",
    "results plot curves run --out": "png",
    "results page --out": "html",
}
REASON = "--out|regular files|can't write|can't be"
for command, ending in WRITERS.items():
    name = f"x.{ending}"
    files = at(name, (link("../mine"), link("absent"), link("/dev/null"), os.mkfifo, os.mkdir))
    OUTSIDE += tries("outside", f"{command} {name}", files, says=REASON)
    places = "/dev/null", f"/dev/null/{name}", f"nowhere/{name}", f"/proc/{name}", "''"
    OUTSIDE += tries("outside", [f"{command} {place}" for place in places], says=REASON)
for path in ("/dev/null", "/dev/null/x", "plain.txt", "plain.txt/x", "/proc/x"):
    OUTSIDE += tries("outside", f"{PLAIN} --out-dir {path}", says="folder")

# ---- Damaged and made-up files -------------------------------------------------------------------

DAMAGED, WRONG = [], "config.json|result.json|there is no script|holds a run of"
NO_RUN = "no (finished |published )?run|is not finished"
for name in ("config.json", "result.json", "metrics.jsonl", "tokenizer.json"):
    files = at(f"run/{name}", map(replaced, BAD_JSON.values()))
    DAMAGED += tries("damaged", READS[name][0], files, says=f"{re.escape(name)}|{NO_RUN}")
    DAMAGED += tries("damaged", READS[name][1:], files[1::4], says=f"{re.escape(name)}|{NO_RUN}")
files = at("run/config.json", [bad.edited(**wrong) for wrong in bad.WRONG])
DAMAGED += tries("damaged", RESUME, files, says=WRONG)
DAMAGED += tries("damaged", [LOADED[0], CHECKED[0], CURVES], files[::4], says=WRONG)
files = at("run/config.json", [bad.edited(**wrong) for wrong in bad.OTHER_SIZES])
DAMAGED += tries("damaged", RESUME, files, says="of another run")
files = at("run/result.json", [bad.edited(**wrong) for wrong in bad.RESULTS])
DAMAGED += tries("damaged", [LOADED[0], CHECKED[0]], files, says="result.json")
files = at("run/script.py", map(replaced, bad.SCRIPTS))
DAMAGED += tries("damaged", CHECKED[:2], files, says="script.py")

GONE = {f"run/{name}": Path.unlink for name in ("checkpoint.pt", "checkpoint.previous.pt")}
files = [{"run/checkpoint.previous.pt": Path.unlink, "run/checkpoint.pt": c} for c in CHECKPOINTS]
DAMAGED += tries("damaged", RESUME, files, says="checkpoint|regular file")
# What reads nothing but the weights does not see damage of the rest.
files = [{**GONE, "run/best.pt": damage} for damage in CHECKPOINTS[-bad.N_HARM :]]
DAMAGED += tries("damaged", [SAMPLE, LOADED[0]], files, says="best.pt|checkpoint in|weights")

NAME = os.fsdecode(b"caf\xe9")  # no UTF-8
commands = [f"{V0} --data {NAME}", f"{PLAIN} --out-dir {NAME}", f"bpe train --data {NAME}"]
commands += [f"bpe show --file {NAME}", f"results compare run {NAME}"]
commands += [f"results {one} {NAME}" for one in ("check", "evaluate", "plot curves")]
DAMAGED += tries("damaged", commands, at(NAME, [TEXT]), says="not UTF-8")
for words in ("compare ** run", "compare run **", "compare '[' '('", "check **", "plot curves **"):
    DAMAGED += tries("damaged", f"results {words}", says="no (published|finished) run|no run in")
for name in ("$^$", "a b", "-x", "%s{}", "é", "'", "x" * 200):
    path = shlex.quote(f"./{name}")
    DAMAGED += tries("damaged", f"{PLAIN} --out-dir {path}", status=0, says="bits per byte")
    readers = "plot curves", "plot attention --prompt The", "local --folder"
    commands = [f"results {one} {path}" for one in readers]
    copy = {name: lambda path: shutil.copytree(path.parent / "run", path)}
    DAMAGED += tries("damaged", commands, [copy], status=0)

# ---- Flags ---------------------------------------------------------------------------------------

NO_COUNT = ["0", "-1", "1.5", "18446744073709551616", "x"]
NO_SEED = ["-1", "18446744073709551616", "9223372036854775808", "1.5"]
RANGES = {  # of other commands than the scripts
    "--temperature": (["nan", "inf", "-1", "1e-320", "x", "''"], ["results claims run"]),
    "--seed": (NO_SEED, ["results claims run", "results probe run"]),
    "--stories": (NO_COUNT, ["results claims run"]),
    "--each": ([*NO_COUNT, "1"], ["results probe run"]),
    "--times": (NO_COUNT, ["results evaluate run"]),
    "--top": (NO_COUNT, ["results plot predictions run"]),
    "--words": (NO_COUNT, ["results plot embeddings run"]),
    "--labels": (["-1", "1.5"], ["results plot embeddings run"]),
    "--length": (NO_COUNT, ["results plot induction run"]),
    "--layer": (["-1", "99"], ["results plot attention run --prompt The"]),
    "--vocab-size": (NO_COUNT, ["bpe train"]),
    "--processes": (NO_COUNT, ["bpe encode hello"]),
    "--device": (["abacus", "meta", "cuda:99", "''"], [*LOADED, "results claims run"]),
    "--data": (["''"], ["bpe train"]),
    "--pattern": (["'('"], ["bpe train --data plain.txt"]),
}
FLAGS = []
for flag, (values, commands) in RANGES.items():
    for command, value in itertools.product(commands, values):
        FLAGS += tries("flags", f"{command} {flag}{'= '[value[0] != '-']}{value}", says=flag[2:6])
FLAGS += tries("flags", f"{LOADED[1]} --prompt -hello", says="--prompt=-hello")

HERE = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
JOBS = [
    *(({"WORLD_SIZE": n}, "unset WORLD_SIZE") for n in ("2", "0", "", "x")),
    *(({**HERE, name: "x"}, "can't be joined") for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")),
    ({**HERE, "WORLD_SIZE": "3"}, "--batch-size 4 for 3 processes: give a multiple of 3"),
    ({name: value for name, value in HERE.items() if name != "MASTER_PORT"}, "can't be joined"),
]
HARMLESS = "LOCAL_WORLD_SIZE=x LOCAL_RANK=x RANK=x COLUMNS=1 LINES=0 TORCHELASTIC_RESTART_COUNT=x"
HARMLESS += " HOME=/nowhere TERM=dumb TMPDIR=/nowhere LC_ALL=C WIKITEXT_DIR=/nowhere TZ=x"
ONE = f"{V1} --data plain.txt"
for job, says in JOBS:
    FLAGS += tries("flags", ONE, says=says, environment=job)
for setting in HARMLESS.split():
    own = dict([setting.split("=")])
    FLAGS += tries("flags", ONE, status=0, says="bits", environment=own)
HELPED = "v0 v4 results bpe".split() + ["results plot", "results claims", "bpe train"]
for columns in ("1", "30", "500"):
    commands = [f"{command} --help" for command in HELPED]
    FLAGS += tries("flags", commands, status=0, says="usage", environment={"COLUMNS": columns})

commands = [small(version, top_p="1e-300") for version in VERSIONS]
# The ends of ranges.
for name, value in {"temperature": 0, "top_k": 10**9, "steps": 0, "seed": 2**63 - 1}.items():
    commands += [small(version, **{name: value}) for version in ("v0", "v4")]
PATTERNS = ("'\\w+'", "'(?<=a)b|.'", "'a\\Kb'", "'(?=x)'", "'\\b'")
commands += [f"{V2} --split-pattern {pattern}" for pattern in PATTERNS]
commands += [V2.replace("v2", name, 1) for name in ("v2_dot", "v2_mean")]
commands = [f"{command} --data plain.txt" for command in commands]
FLAGS += tries("flags", commands, status=0, says="bits per byte")
FLAGS += [
    Situation("flags", small("v2", n_embd=65536, context_length=2**31), 2, "give a lower --batch"),
    Situation("flags", f"{SAMPLE} --prompt 'The '", 0, "the prompt ends in a space"),
    Situation("flags", f"{SAMPLE} --prompt The", 0, r"\A(?!.*ends in a space)"),
    Situation("flags", "bpe train --data same.txt --pattern '(a|aa)+b'", 2, "takes too long"),
    Situation("flags", f"{V2} --data plain.txt --tokenizer run/tokenizer.json", 0, "bits per byte"),
]

ALL = [*TEXTS, *IDENTITY, *ENDS, *OUTSIDE, *DAMAGED, *FLAGS]
