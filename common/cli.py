"""The command line, made from a script's Config dataclass, and errors that are one line long."""

import contextlib
import dataclasses
import errno
import functools
import inspect
import itertools
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
import typing
from pathlib import Path

from common.config import LATER, RunConfig, Settings, check_config, check_field
from common.errors import UserError, is_out_of_memory
from common.files import read_json

import msgspec

PATHS = "data data_dir tokenizer out_dir".split()  # a shell leaves --out-dir=~/runs as it is


def parse(config_class, description, args=None):
    """The command line as a `config_class`; the comment behind each field is its help text.

    With --resume or --sample-only the defaults are the saved run's own settings, so that only
    what the user typed can differ. Processes that torchrun has started again, because one of them
    died, go on from the checkpoint by themselves. Raises UserError for values out of range; tyro
    prints its own message for anything else that can't be meant, and exits with status 2.
    """
    args = sys.argv[1:] if args is None else [str(arg) for arg in args]
    config = _parse(config_class, description, args, config_class())
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if again and not config.resume and os.path.exists(f"{config.out_dir}/checkpoint.pt"):
        config, args = dataclasses.replace(config, resume=True), [*args, "--resume"]
    if config.resume or config.sample_only:
        config = _parse(config_class, description, args, saved_config(config_class, config))
    check_config(config)
    warmup = getattr(config, "warmup_steps", 0)
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if 0 < config.steps < warmup and first and not config.sample_only:
        print(
            f"the learning rate will not reach --learning-rate {config.learning_rate:g}: it"
            f" rises for {warmup} --warmup-steps, and --steps are {config.steps}",
            file=sys.stderr,
        )
    return config


def _parse(config_class, description, args, default):
    """One reading of the command line, with the values of `default` where it says nothing."""
    tyro = _tyro_for(args)
    own = [f for f in dataclasses.fields(config_class) if f.name not in _inherited()]
    lesson = _group("SettingsOfTheLesson", config_class, own, default)
    common = _group("SettingsOfEveryVersion", RunConfig, dataclasses.fields(RunConfig), default)
    everything = dataclasses.make_dataclass(
        "Settings", [("lesson", lesson, lesson()), ("common", common, common())]
    )
    parsed = tyro.cli(
        everything, description=description, args=args, config=(tyro.conf.OmitArgPrefixes,)
    )
    values = {**vars(parsed.lesson), **vars(parsed.common)}
    values |= {name: os.path.expanduser(values[name]) for name in PATHS}
    config = config_class(**values)
    version = version_of(config_class)
    return dataclasses.replace(config, out_dir=config.out_dir or default_folder(version, config))


def _tyro_for(args):
    """The library, after a look at what it does not know what to do with."""
    import tyro

    for flag, value in itertools.pairwise(args):
        if flag == "--prompt" and value.startswith("-"):
            wanted = shlex.quote(f"--prompt={value}")
            raise UserError(f"--prompt {value}: write a text that begins with a dash as {wanted}")
    if shutil.get_terminal_size().columns < 40:  # tyro does not end on the narrowest of them
        os.environ["COLUMNS"] = "40"
    return tyro


def _inherited():
    return {field.name for field in dataclasses.fields(RunConfig)}


def _group(title, cls, fields, default):
    """A frozen dataclass of some fields, whose docstring is the title of a group in --help."""
    import tyro

    source = "".join(inspect.getsource(each) for each in cls.__mro__[:-1])  # all but `object`
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
    described = [
        (
            field.name,
            typing.Annotated[field.type, tyro.conf.arg(help=comments[field.name])],
            dataclasses.field(default=getattr(default, field.name)),
        )
        for field in fields
    ]
    words = re.sub(r"(?<!^)([A-Z])", r" \1", title).lower()
    return dataclasses.make_dataclass(title, described, frozen=True, namespace={"__doc__": words})


def version_of(config_class):
    """The name of the script that defines a Config: v3 for v3.py."""
    return Path(inspect.getfile(config_class)).stem


def default_folder(version, config):
    """runs/v3, or runs/v3-CORPUS where the corpus is not the bundled sample."""
    if config.data == "sample":
        return f"runs/{version}"
    corpus = re.sub(r"[^\w.-]+", "-", config.data.rstrip("/\\")).strip("-.")[-40:]
    return f"runs/{version}-{corpus or 'text'}"


def saved_config(config_class, config):
    """The settings of the run in config.out_dir as a `config_class`. Raises UserError."""
    path = Path(config.out_dir) / "config.json"
    if not os.path.exists(path):  # false for impossible names too
        flags = {"--resume": config.resume, "--interactive": config.interactive}
        flag = next((flag for flag, given in flags.items() if given), "--sample-only")
        raise UserError(f"{flag}: no run in {config.out_dir}; train one first")
    version, values = read_config(path)
    if version != version_of(config_class):
        raise UserError(
            f"{config.out_dir} holds a run of {version:.40}.py, not of this script: use that script"
            f" or another --out-dir"
        )
    saved = config_from(config_class, values, path)
    # The folder is the one on the command line, whatever its file says: it may have been moved.
    return dataclasses.replace(saved, out_dir=config.out_dir, resume=False, sample_only=False)


class _Saved(msgspec.Struct):
    """A run's config.json."""

    version: str
    config: Settings


def read_config(path):
    """(version, settings) of a run's config.json. Raises UserError where it is none."""
    saved = read_json(path, "a run's settings", _Saved)
    if "seed" not in saved.config:
        raise UserError(f"{path} is not a run's settings: it lacks a seed")
    kinds = {name: type(value) for name, value in vars(RunConfig()).items()}
    for name, value in saved.config.items():
        try:
            if not isinstance(value, kinds.get(name, object)):
                raise TypeError
            check_field(name, value)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except TypeError:  # of a kind that has no such range
            raise _damaged(path, name, value) from None
    return saved.version, LATER | saved.config


def _damaged(path, name, value):
    return UserError(f"{path}: {name} is {value!r:.40}; the file has been damaged")


def config_from(config_class, values, path):
    """A `config_class` of saved settings, each checked as the command line's are."""
    fields, defaults = dataclasses.fields(config_class), config_class()
    missing = [field.name for field in fields if field.name not in values]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: was it written by an older script?")
    for field in fields:
        name, value = field.name, values[field.name]
        allowed = typing.get_args(field.type) or (value,)  # of a Literal
        if type(value) is not type(getattr(defaults, name)) or value not in allowed:
            raise _damaged(path, name, value)
    return config_class(**{field.name: values[field.name] for field in fields})


def run_command(what, description, args=None, prog=None):
    """Run a function, or one of a dictionary of them by its name, with arguments from the command
    line: its required arguments are positional, the others flags, its docstring their help. A
    flag has the range that it has everywhere.
    """
    args = sys.argv[1:] if args is None else args
    tyro = _tyro_for(args)

    def later(function):  # first the command line alone, then the function, which may print
        @functools.wraps(function)
        def call(**given):
            paths = {k: v if k == "prompt" else _expanded(v) for k, v in given.items()}
            return functools.partial(function, **paths)

        return call

    settings = {"description": description, "config": (tyro.conf.PositionalRequiredArgs,)}
    settings["prog"] = prog or f"python {Path(sys.argv[0]).name}"
    if isinstance(what, dict):
        commands = {name: later(function) for name, function in what.items()}
        args = args or ["--help"]
        chosen = tyro.extras.subcommand_cli_from_dict(commands, args=args, **settings)
    else:
        chosen = tyro.cli(later(what), args=args, **settings)
    for name, value in chosen.keywords.items():
        for one in value if isinstance(value, tuple) else [value]:
            check_field(name, one)
    chosen()


def _expanded(value):
    """A path with the user's folder in place of ~, or a tuple of them; else the value as it is."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def _terminated(number, frame):
    with contextlib.suppress(OSError):  # the terminal may be what has gone
        print("stopped", file=sys.stderr)
    sys.exit(128 + number)


def run_main(main):
    """Call main(); a UserError is one line on standard error and exit status 2, no traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called, as `>&-` does
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        # Progress bars and messages hold characters that a Windows console's encoding may lack.
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(encoding="utf-8", errors="replace")
    # Before a run has begun and after it has ended, like Ctrl-C: tidy up, then leave.
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        with contextlib.suppress(ValueError):  # signals are the main thread's
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, _terminated)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _say_and_leave(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if _reads_text(error):
            _say_and_leave("out of memory while the text was read or encoded: give a shorter one")
        sizes = "--batch-size, --context-length, --vocab-size, --n-embd, --n-layer or --ngram-rows"
        _say_and_leave(f"out of memory: give a lower {sizes}; what was saved is still there")
    except OSError as error:  # of what is printed: a file's would be a UserError by now
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        if error.errno != errno.EPIPE:
            with contextlib.suppress(OSError):
                print(f"can't print any more: {error.strerror}", file=sys.stderr)
        discard_output()
        # Of a reader that has seen enough, `head` for one, a shell says the same.
        sys.exit(141)
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more would be a traceback
        print("stopped", file=sys.stderr)
        sys.exit(130)


def discard_output():
    """Let what is printed from now on go nowhere: its reader has left."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reads_text(error):
    """Whether an error was raised by what reads and encodes texts."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    folders = [Path(__file__).with_name(name) for name in ("data", "tokenizers", "bpe")]
    return any(file.parent in folders or file.name == "bpe_tokenizer.py" for file in files)


def _say_and_leave(message):
    print(f"{Path(sys.argv[0]).name}: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
