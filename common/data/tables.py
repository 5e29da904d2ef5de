"""Tables, a row at a time: .csv, .tsv, .json (an array, or JSON lines) and .parquet.

A row is a dictionary; a JSON value of another kind, such as a string, is a row of one column.
Memory is bounded by the longest row, but a JSON array is read as a whole.
"""

import csv
import io
import itertools
import json
import re
import statistics

from common.data.reading import opened
from common.errors import UserError

ROWS = 1000  # rows read at once
SAMPLE = 200  # rows that tell which column holds the text
LONGEST_FIELD = 1 << 26  # characters


class Rows:
    """Rows of tables, a document each, in one column. They are measured in rows, and cut anywhere.

    read_rows   function: (source, column, start) -> the source's rows from number `start` on; of a
                column of no name, all columns
    size        function: source -> how many rows it has
    column      its name, or "" for a guess
    name        for messages, what the sources are parts of; "" where they are files
    """

    units, documents = "rows", True

    def __init__(self, read_rows, size, column, name=""):
        self.read_rows, self.size, self.column, self.name = read_rows, size, column, name
        self.stopped = {}  # (source, row) -> rows from there on, so that splits are one pass

    def check(self, sources):
        """Settle the column by the first rows: in some of them it may be null. Returns notes."""
        for source in sources:
            if sample := list(itertools.islice(self.read_rows(source, "", 0), SAMPLE)):
                self.column, note = choose_column(sample, self.column, self.name or source)
                return [note]
        return []

    def cut(self, source, target):
        """A row at which the source can be cut: the one that is wanted."""
        return target

    def read(self, source, start, end):
        """The texts of the rows from `start` to `end`; None for a row without text."""
        rows = self.stopped.pop((source, start), None)
        rows = rows or self.read_rows(source, self.column, start)
        where = f"{self.name}, {source}" if self.name else source
        for number, row in enumerate(itertools.islice(rows, end - start), start + 1):
            yield text_of(row, self.column, f"{where}: row {number}")
        self.stopped = {(source, end): rows}


# ---- files ---------------------------------------------------------------------------------------


def read_rows(kind, file, column="", start=0):
    """The rows of a file from number `start` on; of a Parquet file only the column, if given."""
    if kind == "parquet":
        rows = _parquet_rows(file, column)
    else:
        rows = _csv_rows(file) if kind == "csv" else _json_rows(file, column or "text")
    return itertools.islice(rows, start, None)


def count_rows(kind, file) -> int:
    """How many rows a file has."""
    if kind == "parquet":
        from pyarrow.parquet import read_metadata

        with opened(file) as stream:
            return read_metadata(stream).num_rows
    return sum(1 for _ in read_rows(kind, file))


def _csv_rows(file):
    """Rows behind a header, separated by tabs, semicolons or commas, as the header is."""
    csv.field_size_limit(LONGEST_FIELD)
    with opened(file) as binary:
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        header = stream.readline(LONGEST_FIELD)
        delimiter = max(",\t;", key=header.count)
        reader = csv.reader(itertools.chain([header], stream), delimiter=delimiter, strict=True)
        try:
            columns = next(reader, [])
            odd = [name for name in columns if len(name) > 100 or re.fullmatch(r"-?[\d.]+", name)]
            if odd or len(set(columns)) < len(columns):
                raise UserError(f"{file}: the first line has to name the columns, each once")
            for fields in filter(None, reader):
                if len(fields) > len(columns):
                    raise csv.Error(f"it has {len(fields)} fields, the header {len(columns)}")
                yield dict(zip(columns, fields, strict=False))
        except csv.Error as error:
            line = f"{file}: line {reader.line_num} is no row of a table ({error})"
            advice = "do quotation marks pair up, around each text that holds the separator?"
            raise UserError(f"{line}: {advice}") from None


def _json_rows(file, column):
    """The items of one array, or a value on each line."""
    with opened(file) as binary:
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n")
        for number, line in enumerate(filter(str.strip, stream), 1):
            is_array = number == 1 and line.lstrip().startswith("[")
            text = line + stream.read() if is_array else line
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                what = f"row {number} is not JSON: {line[:40].strip()} …"
                raise UserError(f"{file}: {what}: write an array, or a row on each line") from None
            for row in value if is_array else [value]:
                yield row if isinstance(row, dict) else {column: row}


def _parquet_rows(file, column):
    from pyarrow.parquet import ParquetFile

    with opened(file) as stream, ParquetFile(stream) as table:
        if len(set(names := table.schema_arrow.names)) < len(names):
            raise UserError(f"{file}: two of its columns have the same name: rename one")
        for batch in table.iter_batches(ROWS, columns=[column] if column else None):
            yield from batch.to_pylist()


# ---- the column of text --------------------------------------------------------------------------


def choose_column(rows, wanted, where):
    """Which column of some rows to read, and a line that says so.

    wanted: its name, or "" for a guess: the column `text`, or the only one that reads like text.
    Where another does and `text` does not, that one is read.
    """
    texts = {}  # column -> its texts in these rows, "" for what is none
    for row in rows:
        for name, value in row.items():
            texts.setdefault(name, []).extend([] if value in EMPTY else [_as_text(value)])
    if not texts:
        return wanted, ""
    listed = ", ".join(texts)
    likely = [name for name in texts if _reads_like_text(texts[name])]
    usual = "text" in texts and ("text" in likely or not likely)
    choice = wanted or ("text" if usual else likely[0] if len(likely) == 1 else "")
    if wanted and wanted not in texts:
        raise UserError(f"{where} has no column {wanted!r}; its columns are {listed}")
    if wanted and texts[wanted] and not any(texts[wanted]):  # it may begin with many nulls
        raise UserError(f"{where}: the column {wanted!r} does not hold text")
    if not choice:
        found = f"of them {', '.join(likely)} hold text" if likely else "none of them reads as text"
        example = next((name for name in likely or texts if any(texts[name])), "COLUMN")
        which = f"which column is the text? Its columns are {listed}, and {found}"
        raise UserError(f"{where}: {which}: name one after a colon, {where}:{example}")
    length = statistics.median(map(len, texts[choice] or [""]))
    about = f"typically {length:,.0f} characters a row" if length else "null in its first rows"
    return choice, f"column {choice!r} is read, {about}"


EMPTY = (None, "", [])  # of a row without text
# Two words, or a few letters of a script that puts no spaces between its words.
PROSE = re.compile(
    r"[^\W\d_]\S*\s+\S*[^\W\d_]|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7af]{4}"
)


def _reads_like_text(texts):
    """Are these texts rather than ids, dates, links or labels?"""
    return sum(1 for text in texts if PROSE.search(text)) * 2 > len(texts)


def _as_text(value):
    """A value as text, "" where it holds none: a string, or a conversation."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return "\n".join(filter(None, map(_message, value)))
    return ""


def _message(message):
    """`role: content` of {"role": …, "content": …}, which some call "from" and "value"."""
    role = message.get("role") or message.get("from")
    content = message.get("content") or message.get("value")
    if isinstance(content, list):  # of parts, some of which are pictures
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = " ".join(part for part in parts if isinstance(part, str))
    return f"{role}: {content}" if isinstance(role, str) and role and content else ""


def text_of(row, column, where):
    """A row's text, or None where it has none. Raises UserError where it holds something else."""
    value = row.get(column)
    text = _as_text(value)
    if not text and value not in EMPTY:
        raise UserError(f"{where} holds {type(value).__name__}, not text, in column {column!r}")
    # A NUL, which no setting may hold, or half a surrogate pair, which only JSON can spell.
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text) or None
