"""The interface of raw data sources: their files, the records in them, and bad lines."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from recbole_mscgrec.storage.errors import UserError

_LONGEST = 1 << 25  # bytes of a line; without a limit, a file without line breaks fills the memory
_SHOWN = 5  # bad lines that are logged one by one
# What an id must not contain: control characters end a cell or a row of an atomic file, its reader
# takes doubled quotes for csv's, and [PAD] is RecBole's padding.
_UNFIT = re.compile(r'[\x00-\x1f\x7f]|""|^\[PAD\]$')

Record = tuple[int, Any]  # number of the line or row, and its content; a BadLine if unreadable


class BadLine(ValueError):
    """A record that breaks a rule; the message states the rule."""


class Interaction(NamedTuple):
    """One interaction. `previous` is the user's preceding item if the source has histories."""

    user: str
    item: str
    time: int | None  # nanoseconds since 1970; None: the file is in the order of time
    rating: float = float("nan")
    previous: str = ""


class RawFile:
    """A raw file: plain, .gz, or a member of a zip archive."""

    def __init__(self, path: Path, member: str = "") -> None:
        self.path, self.member = path, member
        self.position = 0  # stored (compressed) bytes read so far

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def base(self) -> str:
        """The file's own name, without folders and without .gz."""
        return Path(self.member or self.path).name.removesuffix(".gz")

    @property
    def size(self) -> int:
        """Bytes to read: the stored size, or that of the archive's member."""
        if not self.member:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).file_size

    @property
    def signature(self) -> list[Any]:
        """Values that change when the file changes."""
        stat = self.path.stat()
        return [str(self.path.resolve()), self.member, stat.st_size, stat.st_mtime_ns]

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The content as a stream of bytes. Raises UserError if it cannot be read to the end."""
        try:
            with self._stored() as stored:
                counted = io.BufferedReader(_Counted(stored, self), 1 << 18)
                if self.path.suffix == ".gz" and not self.member:
                    yield io.BufferedReader(gzip.GzipFile(fileobj=counted), 1 << 18)  # type: ignore[arg-type]
                else:
                    yield counted
        except EOFError as error:
            raise UserError(
                f"{self} ends early: it is truncated or its download broke. Fetch it again."
            ) from error
        except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{self} is damaged ({error}): fetch it again.") from error

    @contextmanager
    def _stored(self) -> Iterator[BinaryIO]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream  # type: ignore[misc]
        else:
            with self.path.open("rb") as stream:
                yield stream


class _Counted(io.RawIOBase):
    """A stream that records in its RawFile how far it has been read."""

    def __init__(self, stream: BinaryIO, file: RawFile) -> None:
        self._stream, self._file = stream, file
        file.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self._file.position += len(block)
        return len(block)


@dataclass(frozen=True)
class Table:
    """Files of one kind, and how to read them."""

    files: list[RawFile]
    records: Callable[[RawFile], Iterator[Record]]


@dataclass(frozen=True)
class Interactions(Table):
    """Files of interactions. `parse` returns the interactions of a record, or raises BadLine."""

    parse: Callable[[Any], list[Interaction]]


@dataclass(frozen=True)
class Items(Table):
    """Files of items. `parse` returns an item's token and a function that reads its values, column
    -> value, or raises BadLine. The function is called only for items with interactions."""

    parse: Callable[[Any], tuple[str, Callable[[], dict[str, str]]]]
    columns: dict[str, str]  # column -> type in the atomic file, without the token column


@dataclass(frozen=True, kw_only=True)
class Source:
    """A raw data set: where it comes from, its files, and what its card says about it."""

    title: str
    terms: str
    interactions: Interactions
    items: Items | None = None
    notes: list[str] = field(default_factory=list)
    has_times: bool = True
    k_core: int = 1  # default of the minimum number of interactions per user and per item
    has_histories: bool = False  # each interaction names the item before it

    @property
    def files(self) -> list[RawFile]:
        """All raw files: of the interactions, then of the items."""
        return [*self.interactions.files, *(self.items.files if self.items else [])]


@dataclass
class BadLines:
    """Counts bad lines, which are skipped, up to a limit."""

    limit: int
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, file: RawFile, line: int, rule: object) -> None:
        """Count a line. Raises UserError for the first one above the limit."""
        self.count += 1
        text = f"{file}, line {line}: {rule}"
        if self.count > self.limit:
            raise UserError(
                f"{text} This is bad line number {self.count}, and --max_bad_lines is "
                f"{self.limit}. Check that the file is what the command says it is, repair it, or "
                "raise --max_bad_lines."
            )
        if len(self.first) < _SHOWN:
            self.first.append(text)
            getLogger().warning(f"{text} The line is skipped.")


def lines(file: RawFile) -> Iterator[Record]:
    """The lines of a file as bytes, with their numbers. Empty lines are skipped, and so is a UTF-8
    byte order mark (BOM), which would become part of the first cell."""
    with file.opened() as stream:
        number = 0
        while line := stream.readline(_LONGEST + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > _LONGEST:
                raise UserError(
                    f"{file}, line {number} has more than {_LONGEST:,} bytes: this is not a file "
                    "with one record per line."
                )
            if line.strip():
                yield number, line


def json_object(line: bytes) -> dict[str, Any]:
    """A line of a .jsonl file. Raises BadLine."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"this is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BadLine("a line must be a JSON object, { ... }.")
    return found


def token_of(value: Any, name: str) -> str:
    """An id as it is written into an atomic file. Raises BadLine."""
    if isinstance(value, float):  # pandas holds integers with missing values as floats
        value = None if value != value else int(value) if value.is_integer() else value
    if value is None or isinstance(value, (list, dict, bool)):
        raise BadLine(f"{name} is missing or not an id ({value!r:.60}).")
    text = str(value).strip()
    if not text:
        raise BadLine(f"{name} is empty.")
    if _UNFIT.search(text) or not _encodes(text):
        raise BadLine(
            f"{name} is {text!r:.60}, but an id has no tab, line break or other control character, "
            "no two quotes in a row, and is not [PAD]."
        )
    return text


def _encodes(text: str) -> bool:
    """Whether a text has no lone surrogate, which JSON allows and UTF-8 does not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def rating_of(value: Any) -> float:
    """A rating; NaN if there is none. Raises BadLine."""
    if value is None or value == "":
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadLine(f"the rating {value!r:.60} is not a number.") from error
    if number in (float("inf"), float("-inf")):
        raise BadLine(f"the rating {value!r:.60} is not finite.")
    return number


def progress(table: Table, file: RawFile, bar: Any) -> Iterator[Record]:
    """The records of a file; the progress bar counts its bytes."""
    before = bar.n
    for n, record in enumerate(table.records(file)):
        if n % 4096 == 0:
            bar.update(before + file.position - bar.n)
        yield record
    bar.update(before + file.size - bar.n)
