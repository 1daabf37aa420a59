"""The one reader of atomic files (.inter, .item, .user, ...), for RecBole's data sets and texts.

Each line is a row, and separators divide it into cells. RecBole's files quote nothing: `"` is an
ordinary character there. Files written by pandas or csv quote a cell that contains a quote, a
separator or a line break, and double the quotes inside it. A file is read as quoted if its header
is quoted, if its lines fit the header only that way, or if every cell with a quote is quoted as a
whole and one of them doubles a quote. No row is skipped: a file that can be read neither way is
refused, and the message names the line.

An empty cell is a missing value. In a column of numbers so are NA, nan, null, None and the like; in
other columns these are ordinary names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_mscgrec.config.data_fields import codec_of, header_cells, header_of
from recbole_mscgrec.storage.errors import UserError

_SHOWN = 3  # rows or tokens that a message names
_NO_NUMBER = frozenset("na n/a #n/a <na> nan -nan null none".split())
_QUOTED = "\0"


class AtomicFile(NamedTuple):
    """An atomic file as strings, '' where a value is missing."""

    path: Path
    frame: pd.DataFrame
    types: dict[str, str]  # column -> type in the header
    lines: np.ndarray  # (n,) line of the file in which a row begins, the header being line 1


def read_atomic_file(
    path: Path, separator: str, encoding: str | None, columns: Sequence[str] | None = None
) -> AtomicFile:
    """Read all rows of an atomic file, in the order of the file.

    Empty lines are skipped. A row may lack its last cells: they are missing values, and a warning
    counts such rows.

    Args:
        path, separator, encoding: the file; the encoding None is UTF-8.
        columns: the columns to return; None: all.

    Raises:
        UserError: the header or some bytes cannot be read, there is no row, or a row has more cells
            than the header; the message names the line.
    """
    types = header_of(path, separator, encoding)
    lines = _text_of(path, encoding).split("\n")
    quoted_header = lines[0].split(separator) != header_cells(path, separator, encoding)
    numbers = [n for n, line in enumerate(lines[1:], start=2) if line.strip(" ")]
    if not numbers:
        raise UserError(f"{path} has a header and no rows.")
    found = _rows(path, lines, numbers, len(types), separator, quoted_header)
    wanted = list(types) if columns is None else list(columns)
    place = {column: n for n, column in enumerate(types)}
    cells = {column: found.cells[place[column] :: len(types)] for column in wanted}
    frame = pd.DataFrame(cells, dtype=object)
    return AtomicFile(path, frame, types, np.asarray(found.numbers))


def numbers_of(texts: Iterable[Any], lines: np.ndarray, path: Path, column: str) -> np.ndarray:
    """A column of numbers as float64 (n,), NaN where a value is missing.

    Raises:
        UserError: a text is not a finite number; the message names it and its line.
    """
    texts = list(texts)
    try:
        values = np.array([text or "nan" for text in texts], dtype=object).astype(np.float64)
    except ValueError:
        values = np.array([_number(text) for text in texts])
    not_finite = np.flatnonzero(~np.isfinite(values))
    for row in not_finite:
        if not _is_missing(texts[row]):
            raise UserError(
                f"{path}, line {lines[row]}: {texts[row]!r} in column {column} is not a number. "
                "Numbers look like 3, 0.5 or 1e-3; times are numbers too, such as seconds since "
                "1970; a missing value is an empty cell."
            )
    values[not_finite] = np.nan
    return values


def first_of_each(file: AtomicFile, key: str) -> AtomicFile:
    """The first row of each value of `key` (the item or user column), as in RecBole. Repeated rows
    and rows without a value are dropped with a warning."""
    keys = file.frame[key]
    unnamed = keys.isna() | (keys == "")
    later = keys.duplicated() & ~unnamed
    if later.any():
        getLogger().warning(
            f"{file.path}: {int(later.sum())} rows repeat the {key} of an earlier row and are not "
            f"used: first {', '.join(keys[later].unique()[:_SHOWN])}."
        )
    if unnamed.any():
        getLogger().warning(
            f"{file.path}: {int(unnamed.sum())} rows have no {key} and are not used: "
            f"{first_lines(file.lines, unnamed.to_numpy())}."
        )
    kept = ~(unnamed | later)
    if kept.all():
        return file
    frame = file.frame[kept].reset_index(drop=True)
    return file._replace(frame=frame, lines=file.lines[kept.to_numpy()])


def first_lines(lines: np.ndarray, where: np.ndarray) -> str:
    """The first few `lines` where the mask `where` is True, in words for a message."""
    chosen = lines[where]
    named = ", ".join(str(line) for line in chosen[:_SHOWN])
    return f"line {named}" if len(chosen) == 1 else f"the first are lines {named}"


class _Rows(NamedTuple):
    cells: list[str]  # row by row
    numbers: list[int]  # the line of each row


def _text_of(path: Path, encoding: str | None) -> str:
    """The whole file as text; the line breaks of all systems become newlines."""
    stored, codec = path.read_bytes(), codec_of(encoding)
    try:
        text = stored.decode(codec)
    except UnicodeDecodeError as error:
        stored = error.object  # without the BOM
        line = stored.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {stored[error.start]:#04x} is not {encoding or 'utf-8'}. "
            "Name the file's encoding, such as --encoding=latin-1, or save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}, line {line}: a NUL character, which texts do not contain: name the file's "
            "encoding, such as --encoding=utf-16."
        )
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _rows(
    path: Path, lines: list[str], numbers: list[int], width: int, separator: str, quoted: bool
) -> _Rows:
    body = [lines[n - 1] for n in numbers]
    counts = np.array([line.count(separator) for line in body]) + 1
    wrong = np.flatnonzero(counts != width)
    if any('"' in line for line in body):
        if not quoted and not len(wrong):
            return _Rows(_without_quotes(separator.join(body).split(separator)), numbers)
        found = _quoted_rows(lines, width, separator)
        if found is not None:
            return found
        if quoted or (counts > width).any() or _opens_a_cell(body, separator):
            line = f", line {numbers[wrong[0]]}" if len(wrong) else ""
            raise UserError(
                f"{path}{line}: this file has cells with quotes and can be read in neither way: "
                f"not every row is one line of {width} cells, separated by {separator!r} "
                "(field_separator), and not every cell with a quote is quoted as csv and pandas do "
                "it, with its own quotes doubled. Write the file with pandas: "
                'frame.to_csv(file, sep="\\t", index=False).'
            )
    if (counts > width).any():
        row = int((counts > width).argmax())
        raise UserError(
            f"{path}, line {numbers[row]}: {counts[row]} cells, and the header has {width} columns,"
            f" separated by {separator!r} (field_separator)."
        )
    if len(wrong):
        getLogger().warning(
            f"{path}: {len(wrong)} rows have fewer cells than the header; their last cells count "
            f"as missing: {first_lines(np.asarray(numbers), counts != width)}."
        )
        lacking = zip(body, (width - counts).tolist(), strict=True)
        body = [line + separator * n for line, n in lacking]
    return _Rows(separator.join(body).split(separator), numbers)


def _opens_a_cell(body: list[str], separator: str) -> bool:
    return any(line.startswith('"') or f'{separator}"' in line for line in body if '"' in line)


def _quoted_rows(lines: list[str], width: int, separator: str) -> _Rows | None:
    """The rows of a file quoted as csv does it; None if a cell is quoted in another way, or a row
    does not have `width` cells."""
    end = re.escape(separator)
    whole = re.compile(rf'"[^"]*(?:""[^"]*)*"(?={end}|\n|\Z)')
    text, at, before = "\n".join(lines), 0, 0
    values: list[str] = []
    between: list[str] = []
    while (at := text.find('"', at)) >= 0:
        begins = at == 0 or text[at - 1] == "\n" or text.endswith(separator, 0, at)
        match = whole.match(text, at) if begins else None
        if match is None:  # csv quotes whole cells
            return None
        values.append(match[0][1:-1].replace('""', '"'))
        between.append(text[before:at])
        before = at = match.end()
    # Each quoted cell becomes one character that no text contains.
    masked = _QUOTED.join([*between, text[before:]])
    quoted, cells, numbers, number = iter(values), list[str](), list[int](), 1
    for line in masked.split("\n"):
        row = [next(quoted) if cell == _QUOTED else cell for cell in line.split(separator)]
        if number > 1 and line.strip(" "):
            if len(row) != width:
                return None
            cells += row
            numbers.append(number)
        number += 1 + sum(cell.count("\n") for cell in row)
    return _Rows(cells, numbers)


def _without_quotes(cells: list[str]) -> list[str]:
    """Remove csv's quotes from cells without separators and line breaks, if csv wrote them: if all
    cells with a quote are quoted as a whole, and one of them doubles a quote."""
    doubles = False
    for cell in cells:
        if '"' in cell:
            inner = cell[1:-1]
            if len(cell) < 2 or cell[0] + cell[-1] != '""' or '"' in inner.replace('""', ""):
                return cells
            doubles = doubles or '"' in inner
    if not doubles:
        return cells
    return [cell[1:-1].replace('""', '"') if '"' in cell else cell for cell in cells]


def _is_missing(text: str) -> bool:
    return not text.strip() or text.strip().lower() in _NO_NUMBER


def _number(text: str) -> float:
    """NaN for a missing value; infinity, which no column may contain, if it is not a number."""
    try:
        return float("nan" if _is_missing(text) else text)
    except ValueError:
        return float("inf")
