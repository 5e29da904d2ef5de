"""The user's own text: files and folders, read a block or a row at a time."""

import contextlib
import functools
import itertools
import re
from collections import Counter

from common.data.cache import cache_folder
from common.data.corpus import SPLITS, Corpus
from common.data.reading import BLOCK, NotText, decoded, kind_of, opened, size_of, start_of
from common.data.tables import Rows, count_rows, read_rows
from common.errors import UserError
from common.files import read_json

import regex

SPLIT_OF = {  # the names of splits
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LONGEST_CHUNK = 16 << 20  # characters of a document, and of a chunk without a good place to cut
LOOK_BACK = 1 << 20  # bytes in which a line end is looked for, before a cut
BIG = 1 << 24  # bytes from which on a corpus is known by its files' sizes and times


def split_named(name) -> str:
    """The split that a name speaks of, "" where it is none or more than one."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)  # myTestset is my and testset
    words = {word.lower().removesuffix("set") for word in words}
    found = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    return found.pop() if len(found) == 1 else ""


def open_text(path, column="") -> Corpus:
    """Look at a file or folder and settle its splits.

    A folder whose files name their split keeps them. Otherwise the last 5 % are for the test,
    the 5 % before for validation; a cut falls between two lines or two documents. A single text
    file is one long text; each of several, and each row of a table, is a document.
    """
    if path.is_dir():
        kind, parts, notes = _look_through(path)
    else:
        kind, parts, notes = kind_of(path), {"train": [path]}, []
    if column and kind == "text":
        raise UserError(f"{path} is plain text and has no column {column!r}: leave that out")
    files = list(itertools.chain(*parts.values()))
    stats = [file.stat() for file in files]
    known = ""  # a text too long to be read at each start is known by what changes with it
    if sum(stat.st_size for stat in stats) > BIG:
        marks = [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]
        # Another number where the cut or the chunks change.
        known = f"2 {path.resolve()!a} {kind} {column} {parts!a} {marks}"
    if kind == "text":
        reader = TextFiles(documents=len(files) > 1)
    else:
        sizes = functools.partial(count_rows, kind)
        reader = Rows(functools.partial(read_rows, kind), sizes, column)
    notes += reader.check(files)
    return split_corpus(path.resolve().name, parts, reader, notes, known)


# ---- folders -------------------------------------------------------------------------------------


def _look_through(folder):
    """The folder's files of the kind that has the most bytes, in a fixed order, and what to say.

    Returns (kind, split -> files, notes). Hidden files and folders, symbolic links to folders,
    folders of runs, the cache and files that hold no text are left out.
    """
    if _is_run(folder):
        raise UserError(f"{folder} is a run's folder: give the text a folder of its own")
    cache, sorts = cache_folder().resolve(), {}  # sort of file -> paths

    def sort_of(path):
        """The kind of a file, or why a file or folder is left out; of other folders nothing."""
        if path.name.startswith("."):
            return "hidden"
        if path.is_dir():
            run = "a run's folder" if _is_run(path) else ""
            return "a link" if path.is_symlink() else "the cache" if path == cache else run
        if not path.is_file():
            return "not a regular file"
        try:
            return kind_of(path) if path.stat().st_size else "empty"
        except NotText:
            return "not UTF-8 text"

    waiting = [folder.resolve()]
    try:
        while waiting:
            for path in sorted(waiting.pop().iterdir()):
                if sort := sort_of(path):
                    sorts.setdefault(sort, []).append(path)
                else:
                    waiting.append(path)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    kinds = {kind: sorts.pop(kind) for kind in ("text", "csv", "json", "parquet") if kind in sorts}
    if not kinds:
        raise UserError(f"{folder}: no file in this folder holds text in UTF-8 or a table of texts")
    kind = max(kinds, key=lambda kind: sum(path.stat().st_size for path in kinds[kind]))
    files = sorted(kinds.pop(kind), key=lambda path: path.as_posix())
    parts, sorts["of no split"] = _own_splits(folder, files)
    sorts["other kinds"] = [path for other in sorted(kinds) for path in kinds[other]]
    endings = Counter(path.suffix or path.name for some in parts.values() for path in some)
    notes = ["read: " + ", ".join(f"{n} {ending}" for ending, n in endings.most_common(8))]
    notes += [f"{split}: {_some(parts[split], folder)}" for split in parts if len(parts) > 1]
    left = [f"{_some(paths, folder)} ({why})" for why, paths in sorts.items() if paths]
    if left:
        notes.append("not read: " + ", ".join(left))
    return kind, parts, notes


def _is_run(folder):
    """Is it the folder of a run of this project? Its settings name their version."""
    with contextlib.suppress(UserError):
        return {"version", "config"} <= read_json(folder / "config.json", "settings").keys()
    return False


def _some(paths, folder):
    """Names for a line: two, and how many more."""
    names = [path.relative_to(folder.resolve()).as_posix() for path in paths[:2]]
    more = f" and {len(paths) - 2:,} more" if len(paths) > 2 else ""
    return ", ".join(names) + more


def _own_splits(folder, files):
    """(split -> files, of files whose name or folder names a split; the other files).

    They are splits only if there are several, train is one of them, and they hold most of the
    text: one test.py among the files of a program makes no split of it, and all are for training.
    """
    own, folder = {}, folder.resolve()
    for file in files:
        parts = reversed(file.relative_to(folder).parts)
        own.setdefault(next(filter(None, map(split_named, parts)), ""), []).append(file)
    others = own.pop("", [])
    total, left = (sum(file.stat().st_size for file in some) for some in (files, others))
    if "train" not in own or len(own) < 2 or left * 2 > total:
        return {"train": files}, []
    return {split: own[split] for split in SPLITS if split in own}, others


# ---- splits --------------------------------------------------------------------------------------


def split_corpus(name, parts, reader, notes, memo) -> Corpus:
    """The corpus of some sources of text. What is missing of its three splits is cut from the end
    of train, 5 % of it each.

    parts    split -> its sources, which the reader knows how to read
    reader   TextFiles or Rows
    """
    # Names of files may hold bytes that are no UTF-8.
    name, *notes = (text.encode("utf-8", "replace").decode() for text in (name, *notes))
    if missing := [split for split in SPLITS if split not in parts]:
        cut = f"cut from the end of train, 5 % each, between {reader.units}"
        notes = [*notes, f"{' and '.join(missing)} {cut}"]

    @functools.cache
    def ranges():  # not before they are needed: to count a table's rows takes a pass over it
        own = {split: [(one, 0, reader.size(one)) for one in parts[split]] for split in parts}
        return _with_cut(own, missing, reader, name)

    def read(split):
        for source, start, end in ranges()[split]:
            yield from reader.read(source, start, end)

    return Corpus(name, reader.documents, read, about="; ".join(filter(None, notes)), memo=memo)


def _with_cut(ranges, missing, reader, name):
    """The ranges, split -> (source, start, end), and those of the missing splits, each of which
    takes 5 % of train's end.

    A cut falls between two lines or rows, and before a file rather than inside it where the file
    is small.
    """
    kept = total = sum(size for _, _, size in ranges["train"])
    for k, split in enumerate(reversed(missing), 1):
        border = min(total - k * total // 20, kept - 1)
        ranges[split] = []
        while kept > max(border, 0):
            source, _, size = ranges["train"].pop()
            kept, place = kept - size, 0  # place: where train ends in this source
            if kept < border and (kept == 0 or size * 50 >= total):
                place = reader.cut(source, border - kept)
            if place:
                ranges["train"].append((source, 0, place))
            ranges[split].insert(0, (source, place, size))
            kept += place
        if not kept:
            raise UserError(f"{name} is empty or too short for three splits: use a longer text")
    return ranges


# ---- files ---------------------------------------------------------------------------------------


# Up to the last line end in some bytes, or the last space, or where the last character begins.
BEFORE_CUT = re.compile(rb".*\n(?=.)|.+(?= )|.*(?=[^\x80-\xbf])|", re.DOTALL)
# Places where every built-in split pattern cuts as well; the last one in a text is found first.
AFTER_LINE = regex.compile(r"(?r)(?<=\S)\n(?=\S)")
BEFORE_SPACE = regex.compile(r"(?r)[A-Za-z](?= [A-Za-z])")


class TextFiles:
    """Plain UTF-8, measured in bytes. One file is one long text; each of several is a document."""

    units, size = "lines or words", staticmethod(size_of)

    def __init__(self, documents):
        self.documents = documents

    def check(self, files):
        """What to say of how they are read."""
        windows = any(b"\r\n" in start_of(file, BLOCK) for file in files[:100])
        return [r"line ends \r\n are read as \n"] if windows else []

    def cut(self, file, target):
        """The last line end in 0 < place <= target; a space or any character if need be."""
        # A line end in the second half will do, so that three lines give three splits.
        begin = max(0, target - target // 2 - 1, target - LOOK_BACK)
        with opened(file, begin) as stream:
            return begin + BEFORE_CUT.match(stream.read(target - begin + 1)).end()

    def read(self, file, start, end):
        """The text between two places, in chunks that are tokenized like the whole.

        A document is one chunk, unless it is very long.
        """
        text, length = "", LONGEST_CHUNK if self.documents else BLOCK
        for block in decoded(file, start, end):
            text += block
            while len(text) >= length:
                begin = max(1, len(text) - BLOCK)
                place = AFTER_LINE.search(text, begin) or BEFORE_SPACE.search(text, begin)
                if place is None and len(text) < LONGEST_CHUNK:
                    break
                cut = place.end() if place else len(text)
                yield text[:cut]
                text = text[cut:]
        if text:
            yield text
