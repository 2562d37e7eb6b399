"""Tables as people have them: CSV with a byte-order mark or without, commas, semicolons or tabs, quotes, any line ends.

Nothing in a table is trusted: what doesn't fit becomes a fault in words, never an exception of the csv module's.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from core.errors import InputError, few, one_line

_DELIMITERS = ",;\t|"
_TOLD_DELIMITER = re.compile(r"\"?sep=([^\s\"])\"?\r?\n", re.IGNORECASE)  # a first line that Excel writes and reads
# Lines before the header: empty ones, as spreadsheets write empty rows, and comments ("# " and words, or # alone). What
# has a delimiter may be the header: "#,image,label" or "# image,label".
_BEFORE_HEADER = re.compile(r"(?:(?:[,;\t| ]*|\"?#(?: [^,;\t|\r\n]*)?)(?:\r\n|\r|\n))*")
_LONGEST_HEADER = 1 << 16  # bytes; Kaggle's tables of pixels have 20 kB of column names
_LINE, _CONTROL = re.compile(rb"[\r\n]"), re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MOST_BYTES = 1 << 30  # a table of a million images has a tenth of this


@dataclass(slots=True)  # not frozen, and no dict of its own: either would double the time for 100,000 rows
class Line:
    """One row of a table: `line["column"]` is the text of a column that was asked for, without the spaces around it.

    Attributes:
        number: Its first line in the file, counted from 1, for messages.
        values: The texts of all columns that were asked for.
        places: The place in `values` of each column, by the name by which it was asked for.
    """

    number: int
    values: tuple[str, ...]
    places: dict[str, int]

    def __getitem__(self, column: str) -> str:
        return self.values[self.places[column]]


@dataclass(frozen=True)
class Table:
    """A file that has been recognised as a table by its first line.

    Attributes:
        path: Where it is.
        columns: Names of its columns as they stand in the file, without the spaces around them.
        delimiter: What separates its values.
        encoding: Its encoding, as Python calls it.
        lines_before: Lines of the file before its header.
    """

    path: Path
    columns: tuple[str, ...]
    delimiter: str
    encoding: str
    lines_before: int = 0

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return one_line(self.path.name)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each column, by its name in lower case; of equal names the first."""
        places: dict[str, int] = {}
        for place, column in enumerate(self.columns):
            places.setdefault(column.lower(), place)
        return places

    def has(self, *columns: str) -> bool:
        """Whether the table has all of these columns, whatever their case."""
        return all(column.lower() in self.places for column in columns)

    def read(self, columns: Sequence[str], *, most: int | None = None) -> tuple[list[Line], list[str]]:
        """Reads some columns; empty lines are passed over, and so are empty values beyond the last column.

        Args:
            columns: Names of columns that the table has, in any case. The lines go by the names given here.
            most: Lines to read; all by default.

        Returns:
            The lines that can be used, and a sentence for each kind of fault among the others.

        Raises:
            InputError: The file as a whole is no table: its encoding or its quotes are broken, it has NUL bytes, or is
                far too long. Or a column that is asked for stands in it twice.
        """
        if (size := self.path.stat().st_size) > _MOST_BYTES:
            raise InputError(
                f"A table must have at most {_MOST_BYTES >> 20:,} MB, but {self.name} has {size >> 20:,} MB. Split it."
            )
        self._refuse_twice(columns)
        wanted = [self.places[column.lower()] for column in columns]
        places = {column: place for place, column in enumerate(columns)}
        width = len(self.columns)
        lines: list[Line] = []
        ragged: list[str] = []
        done = 0  # line of the file up to which all is well
        try:
            with self.path.open(newline="", encoding=self.encoding) as file:
                before = len([file.readline() for _ in range(self.lines_before)])
                reader = csv.reader(_text_of(file), delimiter=self.delimiter, skipinitialspace=True, strict=True)
                next(reader, None)
                done = before + reader.line_num
                for values in islice(reader, most):
                    first, done = done + 1, before + reader.line_num
                    if not any(map(str.strip, values)):
                        continue
                    if len(values) == width or (len(values) > width and not any(map(str.strip, values[width:]))):
                        lines.append(Line(first, tuple([values[place].strip() for place in wanted]), places))
                    else:
                        ragged.append(str(first))
        except UnicodeError as error:
            raise self._broken(*self._undecodable()) from error
        except csv.Error as error:
            raise self._broken(done + 1, str(error)) from error
        return lines, [self._ragged(ragged, len(lines) + len(ragged))] if ragged else []

    def _refuse_twice(self, columns: Sequence[str]) -> None:
        """Refuses columns of which nobody can say which is meant.

        Raises:
            InputError: There are some.
        """
        counts = Counter(map(str.lower, self.columns))
        if twice := [column for column in columns if counts[column.lower()] > 1]:
            raise InputError(
                f"Every column of {self.name} that is used must stand there once, but {few(twice)} stands there "
                f"{counts[twice[0].lower()]} times. Remove or rename all but one."
            )

    def _undecodable(self) -> tuple[int, str]:
        """The first line that is not in the table's encoding, and why; a stream tells neither exactly."""
        content = self.path.read_bytes()
        try:
            content.decode(self.encoding)
        except UnicodeDecodeError as error:
            return content[: error.start].decode(self.encoding, errors="replace").count("\n") + 1, error.reason
        return 1, "it has changed meanwhile"

    def _broken(self, number: int, reason: str) -> InputError:
        kind = "UTF-8" if self.encoding.startswith("utf-8") else self.encoding.upper()
        return InputError(
            f"{one_line(str(self.path))} must be CSV in {kind}, but from line {number:,} on it is not ({reason}). "
            "Export it again."
        )

    def _ragged(self, numbers: list[str], total: int) -> str:
        return (
            f"Every row of {self.name} must have {len(self.columns)} values, but {len(numbers):,} of {total:,} have "
            f"others: lines {few(numbers)}. Mend them."
        )


def open_table(path: Path) -> Table | None:
    """Recognises a file as a table by its header; None if that has fewer than two columns or is no text.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.is_file():
        return None  # a pipe would wait for its writer for ever
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding != "utf-16" and _CONTROL.search(_LINE.split(start, 1)[0]):
        return None  # no text: decoding it would take a hundred times as long
    text = start.decode(encoding, errors="replace")
    told = _TOLD_DELIMITER.match(text)
    delimiters = told[1] if told else _DELIMITERS
    text = text[told.end() :] if told else text
    before = _BEFORE_HEADER.match(text)
    assert before, "it matches nothing, too"
    text = text[before.end() :]
    lines_before = int(bool(told)) + len(io.StringIO(before[0], newline="").readlines())
    headers = [_header(text, delimiter, whole=len(start) < _LONGEST_HEADER) for delimiter in delimiters]
    columns, delimiter = max(zip(headers, delimiters, strict=True), key=lambda pair: len(pair[0]))
    return Table(path, columns, delimiter, encoding, lines_before) if len(columns) > 1 else None


def _text_of(lines: Iterable[str]) -> Iterator[str]:
    """The same lines; one with a NUL byte, which Python's reader takes for a letter, ends them.

    Raises:
        csv.Error: There is one.
    """
    for line in lines:
        if "\0" in line:
            raise csv.Error("it has a NUL byte")
        yield line


def _header(text: str, delimiter: str, *, whole: bool) -> tuple[str, ...]:
    """The names in the first row, which may have line breaks in quotes; none if it has no end or is no text.

    Args:
        text: The start of the file.
        delimiter: What separates the values.
        whole: The start is all there is.
    """
    file = io.StringIO(text, newline="")
    try:
        names = next(csv.reader(file, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return ()
    ended = whole or file.tell() < len(text)
    readable = all(char.isprintable() or char in "\t\r\n" for name in names for char in name)
    return tuple(name.strip() for name in names) if ended and readable else ()
