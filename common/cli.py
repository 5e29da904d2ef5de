"""The command line, made from a script's Config dataclass, and errors that are one line long."""

import contextlib
import dataclasses
import difflib
import functools
import io
import math
import os
import re
import signal
import sys
import typing
from pathlib import Path

from bpe_tokenizer import TokenizerError
from common.errors import UserError, is_out_of_memory
from common.files import read_json

# The fields that may change when a run is resumed. None of them changes what has been learned so
# far. With other --steps, though, v3 and v4 go on along the new length's schedule.
SAFE_TO_CHANGE = (
    "steps eval_every device data_dir out_dir resume sample_only compile activation_checkpointing"
    " prompt max_new_tokens temperature top_k top_p"
).split()

# Fields that runs made before them lack in their settings: what they did is what these are there.
LATER = {"activation_checkpointing": False, "mimetic_start": False}

POSITIVE = "vocab_size context_length batch_size eval_every max_new_tokens grad_accum n_head n_embd"
DEVICES = "auto, cpu, cuda (or cuda:1, the second one) or mps"
RANGES = {  # field: (test, what is wanted); one table, because a field means the same everywhere
    **{name: (lambda v: v >= 1, "at least 1") for name in (POSITIVE + " n_layer").split()},
    "steps": (lambda v: v >= 0, "at least 0"),
    "seed": (lambda v: 0 <= v < 2**63, "between 0 and 2^63 - 1"),
    "learning_rate": (lambda v: 0 < v <= 1e30, "above 0 and at most 1e30"),
    "warmup_steps": (lambda v: v >= 0, "at least 0"),
    "weight_decay": (lambda v: 0 <= v <= 1e30, "at least 0 and at most 1e30"),
    "clip_norm": (lambda v: v > 0, "above 0"),
    "dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "rope_base": (lambda v: 1 < v < math.inf, "above 1"),
    "temperature": (lambda v: v == 0 or 0.001 <= v < math.inf, "0 (greedy) or at least 0.001"),
    "top_k": (lambda v: v >= 0, "at least 0 (0 is off)"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1 (1 is off)"),
    "device": (lambda v: re.fullmatch(r"auto|(cpu|cuda|mps)(:\d{1,3})?", v), DEVICES),
    "prompt": (lambda v: v != "", "some text: a model continues what it is given"),
    "data": (lambda v: v != "", "a corpus' name or a path"),
    "split_pattern": (
        lambda v: v in ("whitespace", "gpt2", "gpt4") or not re.fullmatch(r"[\w-]*", v),
        "whitespace, gpt2, gpt4 or a regular expression",
    ),
    "tokenizer": (lambda v: v != "", "bpe, char, word, gpt2 or a saved vocabulary's path"),
    "out_dir": (lambda v: v != "", "a folder's path"),
}
# No size in a laptop's run comes near; larger ones are slips of the keyboard.
LARGEST = {"n_layer": 1000, "n_head": 2**16, "n_embd": 2**16, "batch_size": 2**16}
LARGEST_OTHER = 2**31
PATHS = "data data_dir tokenizer out_dir".split()  # a shell leaves --out-dir=~/runs as it is


def parse(config_class, description, args=None):
    """The command line as a `config_class`; the comment behind each field is its help text.

    With --resume or --sample-only the defaults are the saved run's own settings, so that only
    what the user typed can differ. Processes that torchrun has started again, because one of them
    died, go on from the checkpoint by themselves. Raises UserError, one line, for anything that
    can't be meant.
    """
    args = sys.argv[1:] if args is None else args
    config = _parse(config_class, description, args, config_class())
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if again and not config.resume and Path(config.out_dir, "checkpoint.pt").exists():
        config, args = dataclasses.replace(config, resume=True), [*args, "--resume"]
    if config.resume or config.sample_only:
        config = _parse(config_class, description, args, _saved(config_class, config))
    for field in dataclasses.fields(config):
        check(field.name, getattr(config, field.name))
    warmup = getattr(config, "warmup_steps", 0)
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if 0 < config.steps < warmup and first and not config.sample_only:
        print(f"the learning rate will not reach --learning-rate {config.learning_rate:g}: it "
              f"rises for {warmup} --warmup-steps, and --steps are {config.steps}", file=sys.stderr)
    return config


def check(name, value):
    """Raise UserError if the value of the field `name` is outside its range."""
    flag = "--" + name.replace("_", "-")
    test, wanted = RANGES.get(name, (lambda v: True, ""))
    if not test(value):
        raise UserError(f"{flag} {value!r}: it has to be {wanted}")
    largest = LARGEST.get(name, LARGEST_OTHER)
    if isinstance(value, int) and name != "seed" and value > largest:
        raise UserError(f"{flag} {value}: that is too large; the limit is {largest}")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise UserError(f"{flag}: the text holds a NUL character, or bytes that are not UTF-8")


def _parse(config_class, description, args, default):
    import tyro

    config = _quietly(tyro.cli, config_class, description=description, args=args, default=default)
    return dataclasses.replace(config, **{name: at_home(getattr(config, name)) for name in PATHS})


def at_home(value):
    """A path with the user's folder in place of ~; or a tuple of them; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def run_command(what, description, args=None):
    """Run a function, or one of a dictionary of them by its name, with arguments from the command
    line: its required arguments are positional, the others flags, its docstring their help.
    """
    import tyro

    def later(function):  # first the command line alone, then the function, which may print
        @functools.wraps(function)
        def call(**given):
            paths = {name: at_home(value) for name, value in given.items() if name != "prompt"}
            return functools.partial(function, **{**given, **paths})

        return call

    args = sys.argv[1:] if args is None else args
    settings = {"description": description, "config": (tyro.conf.PositionalRequiredArgs,)}
    settings["prog"] = f"python -m common.{Path(sys.argv[0]).stem}"
    if isinstance(what, dict):
        if args and args[0] not in what and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], what, n=1)
            guess = f"did you mean {near[0]}? There are" if near else "there are"
            raise UserError(
                f"no command is called {args[0]!r}; {guess} {', '.join(what)}; a run's folder or"
                f" name stands behind one of them ({settings['prog']} COMMAND --help tells where)"
            )
        commands = {name: later(function) for name, function in what.items()}
        chosen = _quietly(
            tyro.extras.subcommand_cli_from_dict, commands, args=args or ["--help"], **settings
        )
    else:
        chosen = _quietly(tyro.cli, later(what), args=args, **settings)
    chosen()


def _quietly(cli, *args, **kwargs):
    """What tyro makes of the command line; its message in a frame becomes a UserError."""
    out, err = _Captured(), _Captured()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return cli(*args, **kwargs)
    except SystemExit as stop:
        if not stop.code:  # --help
            print(out.getvalue(), end="")
            raise
        raise UserError(_one_line(err.getvalue(), kwargs["args"])) from None


class _Captured(io.StringIO):
    encoding = "utf-8"  # tyro asks, and draws its frames accordingly


def _one_line(box, args):
    """tyro's framed message as one line: its first paragraph, and a suggestion if there is one."""
    lines = [line for line in box.splitlines() if line[:1] == "│"]
    texts = [line.strip("│─ ") for line in lines]  # a rule leaves nothing
    first = " ".join(texts[: texts.index("")] if "" in texts else texts)
    first = re.sub(r"^Error parsing (\S+): (.*)", _plainly, first)
    stray = re.match("Unrecognized options: (?!-)([^,]*)", first)
    if stray and any(flag[:2] == "--" and word == stray[1] for flag, word in zip(args, args[1:])):
        first += "; a switch stands alone, --resume or --no-resume, and takes no value"
    elif stray:
        first += "; nothing is expected there without a flag before it"
    guesses = [text for text in texts if text.startswith("--")]
    hint = f"; did you mean {guesses[0].split()[0]}?" if guesses and "Unrecognized" in box else ""
    return f"{first}{hint} (--help lists the flags)"


def _plainly(match):
    """Python's own words for text that is no number, said for people."""
    flag, reason = match.groups()
    kind = "a whole number" if "int()" in reason else "a number" if "float" in reason else ""
    return f"{flag} {reason.partition(': ')[2]}: it has to be {kind}" if kind else match[0]


def _saved(config_class, config):
    """The settings of the run in config.out_dir, as defaults for the command line."""
    path = Path(config.out_dir) / "config.json"
    if not path.exists():
        flag = "--resume" if config.resume else "--sample-only"
        raise UserError(f"{flag}: no run in {config.out_dir}; train one first")
    saved, defaults = read_json(path, "a run's settings"), config_class()
    version = saved.get("version")
    if isinstance(version, str) and version != Path(defaults.out_dir).name:
        raise UserError(
            f"{config.out_dir} holds a run of {version:.40}.py, not of this script: use that script"
            f" or another --out-dir"
        )
    try:
        version, values = saved["version"], LATER | saved["config"]
        values = {field.name: values[field.name] for field in dataclasses.fields(config_class)}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's settings: see its {error}") from None
    for field in dataclasses.fields(config_class):
        name, value = field.name, values[field.name]
        allowed = typing.get_args(field.type) or (value,)  # of a Literal
        if type(value) is not type(getattr(defaults, name)) or value not in allowed:
            raise UserError(f"{path}: {name} is {value!r:.40}; the file has been damaged")
        try:
            check(name, value)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    # The folder is the one that was asked for, whatever its file says: it may have been moved.
    here = {"out_dir": config.out_dir, "resume": False, "sample_only": False}
    return config_class(**{**values, **here})


def _terminated(number, frame):
    print("stopped", file=sys.stderr)
    sys.exit(128 + number)


def run_main(main):
    """Call main(); a UserError is one line on standard error and exit status 2, no traceback."""
    # Progress bars and messages hold characters that a Windows console's own encoding may lack.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(encoding="utf-8", errors="replace")
    # SIGTERM before a run has begun and after it has ended, like Ctrl-C: tidy up, then leave.
    with contextlib.suppress(ValueError):  # signals are the main thread's
        signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
        sys.stdout.flush()
    except (UserError, TokenizerError) as error:
        _say_and_leave(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sizes = "--batch-size, --context-length, --vocab-size, --n-embd or --n-layer"
        _say_and_leave(f"out of memory: give a lower {sizes}; what was saved is still there")
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _say_and_leave(message):
    print(f"{Path(sys.argv[0]).name}: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
