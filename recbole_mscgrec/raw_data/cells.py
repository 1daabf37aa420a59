"""The cells of tables: csv files, files with another separator, parquet."""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from collections.abc import Iterator

from recbole_mscgrec.config.data_fields import TYPES
from recbole_mscgrec.raw_data.records import BadLine, RawFile, Record, lines
from recbole_mscgrec.storage.errors import UserError, one_line

_SEPARATORS = (",", "\t", ";", "|", "::", " ")
_LONGEST_CELL = 1 << 22
_ESCAPED = re.compile("[\udc80-\udcff]")


def table_cells(
    file: RawFile,
    columns: list[str],
    separator: str | None,
    encoding: str,
    header: bool = True,
    quotes: bool = True,
) -> Iterator[Record]:
    """The named columns of a csv or parquet file, row by row; without a separator the one of the
    first line."""
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
    """The named columns of a csv file. With a separator of several characters or without `quotes`
    a quote is a character like any other. A row with another number of cells than the first is a
    BadLine.

    Raises:
        UserError: a column is not in the header, or the encoding is unknown.
    """
    rows = _rows(file, separator, codec_of(encoding), quotes)
    names: list[str] = []
    for line, cells in rows:
        if not names and not isinstance(cells, BadLine):
            names = _names(cells) if header else [str(n + 1) for n in range(len(cells))]
            chosen = _places(file, columns, names)
            if header:
                continue
        if not isinstance(cells, BadLine) and len(cells) != len(names):
            cells = BadLine(f"{len(cells)} cells, and {len(names)} are due ({separator!r}).")
        yield line, cells if isinstance(cells, BadLine) else [cells[n] for n in chosen]


def _rows(file: RawFile, separator: str, codec: str, quotes: bool) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    at = [0]  # the line that was read last
    texts = _texts(file, codec, at)
    plain = len(separator) > 1 or not quotes
    rows: Iterator[list[str]]
    if plain:
        rows = (text.rstrip("\r\n").split(separator) for text in texts)
    else:
        rows = csv.reader(texts, delimiter=separator, strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield at[0], BadLine(f"this is not csv ({error}).")
            continue
        text = "".join(row)
        if not text.isascii() and _ESCAPED.search(text):
            yield at[0], BadLine(f"bytes that are not {codec}: name --encoding.")
        else:
            yield at[0], row


def _texts(file: RawFile, codec: str, at: list[int]) -> Iterator[str]:
    """The lines; bytes of another encoding become surrogates."""
    for number, line in lines(file):
        at[0] = number
        text = line.decode(codec, errors="surrogateescape")
        yield text.removeprefix("\ufeff") if number == 1 else text


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
    """The separator by which the first line has the columns; else the one that makes most."""
    line = next(_texts(file, codec_of(encoding), [0]), "").rstrip("\r\n")
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
    return [names.index(column) for column in columns]


def _parquet_cells(file: RawFile, columns: list[str]) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(
            f"{file} is a parquet file: pip install 'recbole-mscgrec[parquet]' reads it."
        ) from error
    number = 0
    try:
        table = parquet.ParquetFile(file.path)
        _places(file, columns, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1 << 14, columns=columns):
            cells = [batch.column(batch.schema.get_field_index(c)).to_pylist() for c in columns]
            for row in zip(*cells, strict=True):
                number += 1
                yield number, row
            file.position = file.size * number // max(1, table.metadata.num_rows)
    except (ArrowException, OSError) as error:
        raise UserError(
            f"{file}, after row {number}: this cannot be read as parquet ({one_line(error)}): "
            "fetch it again."
        ) from error
