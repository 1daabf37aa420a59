"""The cells of tables: csv files, files with another separator, parquet."""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from recbole_mscgrec.config.data_fields import TYPES
from recbole_mscgrec.raw_data.records import BadLine, RawFile, Record, lines
from recbole_mscgrec.storage.errors import UserError, one_line

_SEPARATORS = (",", "\t", ";", "|", "::", " ")
_LONGEST_CELL = 1 << 22
_ESCAPED = re.compile("[\udc00\udc80-\udcff]")


def table_cells(
    file: RawFile,
    columns: list[str],
    separator: str | None,
    encoding: str,
    header: bool = True,
    quotes: bool = True,
) -> Iterator[Record]:
    """The named columns of a csv or parquet file, row by row. Without a separator, it is detected
    from the first line."""
    if file.path.suffix == ".parquet":
        return _parquet_cells(file, columns)
    found = separator or _separator_of(file, columns, encoding, header)
    return cells_of(file, columns, found, encoding, header, quotes)


def cells_of(
    file: RawFile,
    columns: list[str],
    separator: str,
    encoding: str = "utf-8",
    header: bool = True,
    quotes: bool = True,
) -> Iterator[Record]:
    """The named columns of a csv file. If the separator has several characters or `quotes` is
    False, a quote is an ordinary character. A row whose number of cells differs from the first
    row's is a BadLine.

    Raises:
        UserError: a column is not in the header, the header is unreadable, or the encoding is
            unknown.
    """
    rows = _rows(file, separator, codec_of(encoding), quotes)
    names: list[str] = []
    for line, cells in rows:
        if header and not names and isinstance(cells, BadLine):
            raise UserError(f"{file}, line {line}: the header cannot be read: {cells}")
        if not names and not isinstance(cells, BadLine):
            names = _names(cells) if header else [str(n + 1) for n in range(len(cells))]
            chosen = _places(file, columns, names)
            if header:
                continue
        if not isinstance(cells, BadLine) and len(cells) != len(names):
            cells = BadLine(f"{len(cells)} cells instead of {len(names)} ({separator!r}).")
        yield line, cells if isinstance(cells, BadLine) else [cells[n] for n in chosen]


def _rows(file: RawFile, separator: str, codec: str, quotes: bool) -> Iterator[Record]:
    """Rows with the numbers of their last lines. A quote that only seems to open a cell must not
    swallow the lines up to the next quote: the first line is a BadLine, the others are read
    again."""
    csv.field_size_limit(_LONGEST_CELL)
    read = _Lines(file, codec)
    plain = len(separator) > 1 or not quotes
    rows: Iterator[list[str]]
    if plain:
        rows = (text.rstrip("\r\n").split(separator) for text in read)
    else:
        rows = csv.reader(read, delimiter=separator, strict=True)
    width, wrong = 0, ""
    while True:
        read.taken.clear()
        try:
            row = next(rows)
            width, wrong = width or len(row), ""
        except StopIteration:
            return
        except csv.Error as error:
            row, wrong = [], f"this is not csv ({error})."
        taken = read.taken
        if len(taken) > 1 and (wrong or _is_swallowed(row, taken, separator, width)):
            yield (
                taken[0][0],
                BadLine(
                    f"{wrong or 'a quote is not closed.'} The next {len(taken) - 1:,} lines, which "
                    "would belong to its quoted cell, are read as rows. If quotes are ordinary "
                    "characters here, use --no_quotes."
                ),
            )
            read.again()
        elif wrong:
            yield taken[-1][0], BadLine(wrong)
        elif not (text := "".join(row)).isascii() and _ESCAPED.search(text):
            yield taken[-1][0], BadLine(f"bytes that are NUL or not {codec}: name --encoding.")
        else:
            yield taken[-1][0], row


def _is_swallowed(row: list[str], taken: list[tuple[int, str]], separator: str, width: int) -> bool:
    """Whether the lines of a row are rows themselves: the row has a wrong number of cells, or most
    of its lines have the right one. A space after a separator is a sign of a sentence instead."""
    if len(row) != width:
        return True
    split = [text.rstrip("\r\n").split(separator) for _, text in taken]
    alike = [c for c in split if len(c) == width > 1 and not any(x[:1] == " " for x in c[1:])]
    return 2 * len(alike) > len(taken)


class _Lines:
    """The lines as strings, which can be read again. Invalid bytes become surrogates, and so does
    NUL, at which csv stops in Python 3.10 and earlier."""

    def __init__(self, file: RawFile, codec: str) -> None:
        self._lines, self._codec = lines(file), codec
        self._waiting: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []  # since the caller cleared it

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._waiting:
            number, text = self._waiting.popleft()
        else:
            number, line = next(self._lines)
            text = line.decode(self._codec, errors="surrogateescape").replace("\0", "\udc00")
        self.taken.append((number, text))
        return text

    def again(self) -> None:
        """Return the taken lines once more, without the first."""
        self._waiting.extendleft(reversed(self.taken[1:]))


def codec_of(encoding: str) -> str:
    """Python's name of an encoding. Raises UserError."""
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise UserError(f"--encoding ({encoding}) is not the name of an encoding.") from error
    if "\n".encode(codec) != b"\n":
        raise UserError(
            f"--encoding ({encoding}) has line breaks of several bytes: convert the file to UTF-8, "
            f"for example with iconv -f {encoding} -t utf-8."
        )
    return codec


def _separator_of(file: RawFile, columns: list[str], encoding: str, header: bool) -> str:
    """The separator that splits the first line into a header with `columns`; else the one that
    gives most cells."""
    line = next(_Lines(file, codec_of(encoding)), "").rstrip("\r\n")
    cells = {s: [cell.strip('"') for cell in line.split(s)] for s in _SEPARATORS}
    by_separator = {separator: _names(found) for separator, found in cells.items()}
    if header:
        for separator, names in by_separator.items():
            if set(columns) <= set(names):
                return separator
    return max(by_separator, key=lambda separator: len(by_separator[separator]))


def _names(header: list[str]) -> list[str]:
    """The names of the columns; those of an atomic file without their types."""
    typed = [cell.rpartition(":") for cell in header]
    return [t[0] for t in typed] if all(t[2] in TYPES for t in typed) else header


def _places(file: RawFile, columns: list[str], names: list[str]) -> list[int]:
    for column in columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UserError(
                f"{file} has no column {column}. Its columns are {', '.join(names)[:500]}.{hint}"
            )
        if names.count(column) > 1:
            raise UserError(
                f"{file} has {names.count(column)} columns named {column}: rename or remove all "
                "but one of them."
            )
    return [names.index(column) for column in columns]


def _parquet_cells(file: RawFile, columns: list[str]) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(
            f"{file} is a parquet file; to read it: pip install 'recbole-mscgrec[parquet]'."
        ) from error
    number = 0
    try:
        table = parquet.ParquetFile(file.path)
        _places(file, columns, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1 << 14, columns=columns):
            cells = [batch.column(batch.schema.get_field_index(c)).to_pylist() for c in columns]
            for row in zip(*cells, strict=True):
                number += 1
                yield number, _decoded(row)
            file.position = file.size * number // max(1, table.metadata.num_rows)
    except (ArrowException, OSError) as error:
        raise UserError(
            f"{file}, after row {number}: this cannot be read as parquet ({one_line(error)}): "
            "fetch it again."
        ) from error


def _decoded(row: tuple[Any, ...]) -> tuple[Any, ...] | BadLine:
    """Cells as strings; parquet files of older programs have columns of type binary."""
    try:
        return tuple(cell.decode() if isinstance(cell, bytes) else cell for cell in row)
    except UnicodeDecodeError:
        return BadLine("bytes that are not utf-8.")
