"""Interactions on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_files import write

from recbole_mscgrec.raw_data import spool as module
from recbole_mscgrec.raw_data.records import (
    BadLines,
    Interaction,
    Interactions,
    RawFile,
    Source,
    lines,
)
from recbole_mscgrec.raw_data.spool import Spool, hash_of, spool

LONG = "i" * 2000


def source_of(*files: Path, has_times: bool = True) -> Source:
    """Lines are `user item time`."""

    def parse(line: bytes) -> list[Interaction]:
        user, item, time = line.decode().split()
        return [Interaction(user, item, int(time) if has_times else None)]

    table = Interactions([RawFile(file) for file in files], lines, parse)
    return Source(title="t", terms="", interactions=table, has_times=has_times)


def test_rows_and_tokens(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a", "u1 i1 5\nu2 \u00e9 6\n"),
        write(tmp_path / "b", f"u1 {LONG} 7\n"),
    ]
    spool(source_of(*files), tmp_path, BadLines(0))
    with Spool(tmp_path) as found:
        assert len(found) == 3 and found.column("time").tolist() == [5, 6, 7]
        rows, texts = found.take(np.array([2, 0, 1]))
    assert texts == [f"u1\t{LONG}".encode(), b"u1\ti1", "u2\t\u00e9".encode()]
    assert rows["user"].tolist() == [hash_of("u1"), hash_of(b"u1"), hash_of("u2")]
    assert rows["item"][0] == hash_of(LONG) and rows["time"].tolist() == [7, 5, 6]
    assert rows["previous"].tolist() == [0, 0, 0]


def test_without_times_the_row_is_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT", 2)
    file = write(tmp_path / "a", "u1 i1 5\n" * 5)
    spool(source_of(file, has_times=False), tmp_path, BadLines(0))
    with Spool(tmp_path) as found:
        assert found.column("time").tolist() == [0, 1, 2, 3, 4]


def test_hashes_are_the_same_in_every_process() -> None:
    assert hash_of("B07NTK7T5P") == hash_of(b"B07NTK7T5P") == 6142969156908780939
