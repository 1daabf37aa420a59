"""First stage: all interactions of the raw files as rows of numbers on disk.

A row holds 64-bit hashes of the user's and the item's token; the tokens themselves are in a text
file. So memory does not grow with the data. The stage can be stopped at any time: it continues from
its last checkpoint.
"""

from __future__ import annotations

import io
import os
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from recbole_mscgrec.raw_data.records import (
    BadLine,
    BadLines,
    Interaction,
    RawFile,
    Source,
    progress,
    token_of,
)
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import read_json, write_json

# `at` is the position in the text file at which the tokens of the row begin.
ROW = np.dtype(
    [
        ("user", "<u8"),
        ("item", "<u8"),
        ("previous", "<u8"),
        ("time", "<i8"),
        ("rating", "<f8"),
        ("at", "<u8"),
    ]
)
NONE = 0  # stands for "no token"
_CHECKPOINT = 50_000  # interactions
_BLOCK = 1 << 18  # rows
SPOOL_FILES = _STATE, _ROWS, _TOKENS = "spool.json", "rows.bin", "tokens.txt"


class Spool:
    """The finished rows of `ROW` and their tokens. They are read by position and not memory-mapped:
    scattered rows would bring most of the files into memory."""

    def __init__(self, folder: Path) -> None:
        self._rows = (folder / _ROWS).open("rb", buffering=0)
        self._tokens = (folder / _TOKENS).open("rb", buffering=0)
        self._n = (folder / _ROWS).stat().st_size // ROW.itemsize

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._rows.close()
        self._tokens.close()

    def __len__(self) -> int:
        return self._n

    def column(self, name: str) -> np.ndarray:
        """One column of all rows (n,), in memory."""
        values = np.empty(self._n, dtype=ROW[name])
        self._rows.seek(0)
        for begin in range(0, self._n, _BLOCK):
            block = np.fromfile(self._rows, dtype=ROW, count=_BLOCK)
            values[begin : begin + len(block)] = block[name]
        return values

    def take(self, numbers: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """Rows by their numbers, and the tokens of each: user, tab, item."""
        size = ROW.itemsize
        found = [_read_at(self._rows, n * size, size) for n in numbers.tolist()]
        rows = np.frombuffer(b"".join(found), dtype=ROW)
        return rows, [self._line(at) for at in rows["at"].tolist()]

    def _line(self, at: int) -> bytes:
        size = 128
        while True:
            text = _read_at(self._tokens, at, size)
            line, end, _ = text.partition(b"\n")
            if end or len(text) < size:
                return line
            size *= 8


def _read_at(stream: io.FileIO, at: int, size: int) -> bytes:
    stream.seek(at)
    return stream.read(size)


def hash_of(token: str | bytes) -> int:
    """A 64-bit hash of a token, the same in every process."""
    given = token.encode() if isinstance(token, str) else token
    return int.from_bytes(blake2b(given, digest_size=8).digest(), "little") or 1


def spool(source: Source, folder: Path, bad: BadLines) -> None:
    """Read the interactions of the source into `folder`, or continue where an earlier call stopped.

    Raises:
        UserError: there are too many bad lines, or no interactions.
    """
    state = _state(folder)
    bad.count, bad.first = state["bad"], state["bad_first"]
    if state["done"]:
        return
    files = source.interactions.files
    with _Writer(folder, state) as writer, _bar(files, "Interactions") as bar:
        for n, file in enumerate(files):
            if n < state["file"]:
                bar.update(file.size)
                continue
            _read(source, file, writer, bad, bar)
            writer.checkpoint(file=n + 1, records=0, bad=bad.count, bad_first=bad.first)
        if not writer.rows:
            names = ", ".join(map(str, files))
            raise UserError(f"{names} hold no interactions: name other files with --from.")
        writer.checkpoint(done=True)


def _read(source: Source, file: RawFile, writer: _Writer, bad: BadLines, bar: Any) -> None:
    begin, parse = writer.state["records"], source.interactions.parse
    records = islice(enumerate(progress(source.interactions, file, bar)), begin, None)
    for n, (line, record) in records:
        try:
            if isinstance(record, BadLine):
                raise record
            found = [_checked(one) for one in parse(record)]
        except BadLine as error:
            bad.add(file, line, error)
            continue
        for interaction in found:
            writer.add(interaction)
        if writer.n_buffered >= _CHECKPOINT:
            writer.checkpoint(records=n + 1, bad=bad.count, bad_first=bad.first)


def _checked(one: Interaction) -> Interaction:
    user, item = token_of(one.user, "the user"), token_of(one.item, "the item")
    return one._replace(user=user, item=item)


def _state(folder: Path) -> dict[str, Any]:
    file = folder / _STATE
    if file.is_file():
        state: dict[str, Any] = read_json(file)
        return state
    empty = {"file": 0, "records": 0, "rows": 0, "token_bytes": 0, "bad": 0, "bad_first": []}
    return {**empty, "done": False}


class _Writer:
    """Appends interactions. Data that an earlier call wrote after its last checkpoint is cut
    off."""

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self._folder, self.state = folder, state
        self.rows: int = state["rows"]
        self._at: int = state["token_bytes"]
        self._buffer: list[tuple[int, int, int, int, float, int]] = []
        self._texts: list[bytes] = []

    def __enter__(self) -> _Writer:
        self._row_file = self._cut(_ROWS, self.rows * ROW.itemsize)
        self._token_file = self._cut(_TOKENS, self._at)
        return self

    def __exit__(self, *error: object) -> None:
        self._row_file.close()
        self._token_file.close()

    @property
    def n_buffered(self) -> int:
        return len(self._buffer)

    def add(self, one: Interaction) -> None:
        user, item = one.user.encode(), one.item.encode()
        previous = hash_of(one.previous) if one.previous else NONE
        text = b"%b\t%b\n" % (user, item)
        time = self.rows + len(self._buffer) if one.time is None else one.time
        row = (hash_of(user), hash_of(item), previous, time, one.rating, self._at)
        self._buffer.append(row)
        self._texts.append(text)
        self._at += len(text)

    def checkpoint(self, **changes: Any) -> None:
        """Write the buffered rows, then the state that counts them as finished."""
        self._row_file.write(np.array(self._buffer, dtype=ROW).tobytes())
        self._token_file.write(b"".join(self._texts))
        for file in (self._row_file, self._token_file):
            file.flush()
            os.fsync(file.fileno())
        self.rows += len(self._buffer)
        self._buffer, self._texts = [], []
        self.state |= {"rows": self.rows, "token_bytes": self._at, **changes}
        write_json(self._folder / _STATE, self.state)

    def _cut(self, name: str, size: int) -> BinaryIO:
        path = self._folder / name
        path.touch()
        stream = path.open("rb+")
        stream.truncate(size)
        stream.seek(size)
        return stream


def _bar(files: list[RawFile], name: str) -> Any:
    total = sum(file.size for file in files)
    return tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None)
