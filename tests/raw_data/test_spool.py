"""Interactions on disk."""

from __future__ import annotations

from pathlib import Path

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


def source_of(*files: Path, has_times: bool = True) -> Source:
    """Lines are `user item time`."""

    def parse(line: bytes) -> list[Interaction]:
        user, item, time = line.decode().split()
        return [Interaction(user, item, int(time) if has_times else None)]

    table = Interactions([RawFile(file) for file in files], lines, parse)
    return Source(title="t", terms="", interactions=table, has_times=has_times)


def test_rows_and_tokens(tmp_path: Path) -> None:
    files = [write(tmp_path / "a", "u1 i1 5\nu2 \u00e9 6\n"), write(tmp_path / "b", "u1 i2 7\n")]
    spool(source_of(*files), tmp_path, BadLines(0))
    found = Spool(tmp_path)
    assert [found.token(n) for n in range(3)] == [b"u1\ti1", "u2\t\u00e9".encode(), b"u1\ti2"]
    assert found.rows["time"].tolist() == [5, 6, 7]
    assert found.rows["user"].tolist() == [hash_of("u1"), hash_of("u2"), hash_of(b"u1")]
    assert found.rows["previous"].tolist() == [0, 0, 0]


def test_without_times_the_row_is_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT", 2)
    file = write(tmp_path / "a", "u1 i1 5\n" * 5)
    spool(source_of(file, has_times=False), tmp_path, BadLines(0))
    assert Spool(tmp_path).rows["time"].tolist() == [0, 1, 2, 3, 4]


def test_hashes_are_the_same_in_every_process() -> None:
    assert hash_of("B07NTK7T5P") == hash_of(b"B07NTK7T5P") == 6142969156908780939
