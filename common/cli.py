"""The command line, made from a script's Config dataclass, and errors that are one line long."""

import contextlib
import dataclasses
import errno
import inspect
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import typing
from pathlib import Path

from common.config import RunConfig, Settings, check_settings
from common.errors import UserError, is_out_of_memory
from common.files import read_json

import msgspec
import tyro

TOO_MUCH = """out of memory: give a lower --batch-size, --context-length, --vocab-size, --n-embd,
--n-layer or --ngram-rows, or a shorter text where it came while that was read or encoded; what was
saved is still there"""
# A text as the system's shell takes it: cmd.exe knows no single quotes.
quote = shlex.quote if os.name != "nt" else lambda text: subprocess.list2cmdline([text])


# ---- Scripts -------------------------------------------------------------------------------------


def parse(config_class, description, args=None):
    """The command line as a `config_class`; the comment after each field is its help text.

    With --resume or --sample-only the defaults are the saved run's own settings, so that only
    what the user typed can differ. Processes that torchrun has started again, because one of them
    died, go on from the checkpoint by themselves. Raises UserError for values out of range; tyro
    prints its own message for anything else that can't be meant, and exits with status 2.
    """
    args = sys.argv[1:] if args is None else [str(arg) for arg in args]
    config = _parse(config_class, description, args, config_class())
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if again and not config.resume and os.path.exists(f"{config.out_dir}/checkpoint.pt"):
        config.resume, args = True, [*args, "--resume"]
    if config.resume or config.sample_only:
        config = _parse(config_class, description, args, saved_config(config_class, config))
    check_settings(vars(config))
    return config


def _parse(config_class, description, args, default):
    """One reading of the command line, with the values of `default` where it says nothing."""
    prepare_arguments(args)
    source = "".join(inspect.getsource(each) for each in config_class.__mro__[:-1])  # not `object`
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
    groups = {"lesson": [], "common": []}  # the script's own fields, and those that all have
    for field in dataclasses.fields(config_class):
        described = typing.Annotated[field.type, tyro.conf.arg(help=comments[field.name])]
        value = dataclasses.field(default=getattr(default, field.name))
        group = "common" if field.name in RunConfig.__dataclass_fields__ else "lesson"
        groups[group].append((field.name, described, value))
    made = [dataclasses.make_dataclass(n, fields, frozen=True) for n, fields in groups.items()]
    everything = dataclasses.make_dataclass("Settings", [(c.__name__, c, c()) for c in made])
    without_prefix = (tyro.conf.OmitArgPrefixes,)
    parsed = tyro.cli(everything, description=description, args=args, config=without_prefix)
    values = {**vars(parsed.lesson), **vars(parsed.common)}
    config = config_class(**{name: at_home(name, value) for name, value in values.items()})
    config.out_dir = config.out_dir or default_folder(version_of(config_class), config)
    return config


NO_PATHS = "prompt text special pattern split_pattern".split()  # settings that are texts


def at_home(name, value):
    """A setting's value with the home in place of the ~ at its beginning, where it may be a path: a
    shell leaves --out-dir=~/runs as it is."""
    if isinstance(value, tuple):
        return tuple(at_home(name, one) for one in value)
    return os.path.expanduser(value) if isinstance(value, str) and name not in NO_PATHS else value


def prepare_arguments(args):
    """Refuse, or set right, what tyro does not know what to do with."""
    for flag, value in itertools.pairwise(args):
        if flag == "--prompt" and value.startswith("-"):
            wanted = quote(f"--prompt={value}")
            raise UserError(f"--prompt {value}: write a text that begins with a dash as {wanted}")
    if shutil.get_terminal_size().columns < 40:  # tyro does not end on the narrowest of them
        os.environ["COLUMNS"] = "40"


def version_of(config_class):
    """The name of the script that defines a Config: v3 for v3.py."""
    return Path(inspect.getfile(config_class)).stem


def default_folder(version, config):
    """runs/v3, or runs/v3-CORPUS where the corpus is not the bundled sample."""
    if config.data == "sample":
        return f"runs/{version}"
    corpus = re.sub(r"[^\w.-]+", "-", config.data.rstrip("/\\")).strip("-.")[-40:]
    return f"runs/{version}-{corpus or 'text'}"


# ---- Settings of a run that was saved ------------------------------------------------------------


class _Saved(msgspec.Struct):
    """A run's config.json."""

    version: str
    config: Settings


def saved_config(config_class, config):
    """The settings of the run in config.out_dir as a `config_class`. Raises UserError."""
    path = Path(config.out_dir) / "config.json"
    if not os.path.exists(path):  # false for impossible names too
        raise UserError(f"no run in {config.out_dir}: train one first")
    version, values = read_config(path)
    if version != version_of(config_class):
        holds = f"{config.out_dir} holds a run of {version:.40}.py"
        raise UserError(f"{holds}: use that script or another --out-dir")
    # The folder is the one on the command line, whatever its file says: it may have been moved.
    own = {"out_dir": config.out_dir, "resume": False, "sample_only": False}
    return config_from(config_class, {**values, **own}, path)


def read_config(path):
    """(version, settings) of a run's config.json. Raises UserError where it is none."""
    saved = read_json(path, "a run's settings", _Saved)
    config_from(RunConfig, saved.config, path, needed=["seed"])
    return saved.version, saved.config


def config_from(config_class, values, path, needed=None):
    """A `config_class` of saved settings, each checked as the command line's are.

    needed: the settings that have to be there, where these are not all.
    """
    missing = [name for name in needed or config_class.__dataclass_fields__ if name not in values]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: the script.py there wrote it")
    try:
        config = msgspec.convert(values, config_class)
        check_settings(values)
    except ValueError as error:
        raise UserError(f"{path} has been damaged: {error}") from None
    return config


# ---- How a program ends --------------------------------------------------------------------------


def run_main(main):
    """Call main(); a UserError is one line on standard error and exit status 2, no traceback."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called, as `>&-` does
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        # Progress bars and messages hold characters that a Windows console's encoding may lack, and
        # what is typed in may be no UTF-8.
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(encoding="utf-8", errors="replace")
    # Before a run has begun and after it has ended, like Ctrl-C: tidy up, then leave.
    handle_signals({"SIGTERM": _stopped, "SIGHUP": _stopped})
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _refuse(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _refuse(TOO_MUCH)
    except OSError as error:  # of what is printed: a file's would be a UserError by now
        if error.errno == errno.ENAMETOOLONG:  # of what was given where a path belongs
            _refuse(f"the name {str(error.filename)[:40]} … is too long for a file")
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        if error.errno != errno.EPIPE:
            with contextlib.suppress(OSError):
                print(f"can't print any more: {error.strerror}", file=sys.stderr)
        discard_output()
        # Of a reader that has seen enough, `head` for one, a shell says the same.
        sys.exit(141)
    except KeyboardInterrupt:
        handle_signals({"SIGINT": signal.SIG_IGN})  # once more would be a traceback
        _stopped(signal.SIGINT)


def handle_signals(handlers):
    """Handle signals from now on by {name: handler}; return {number: handler} from before.

    In a thread, which can't, they stay as they are, and everywhere those that are ignored, as nohup
    has it, and those that the system lacks.
    """
    before = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    return before


def _refuse(message):
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _stopped(number, frame=None):
    with contextlib.suppress(OSError):  # the terminal may be what has gone
        print("stopped", file=sys.stderr)
    sys.exit(128 + number)


def discard_output():
    """Let what is printed from now on go nowhere: its reader has left."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
