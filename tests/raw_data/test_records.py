"""Raw files, plain and compressed, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from raw_files import write, zip_of

from recbole_mscgrec.raw_data import records
from recbole_mscgrec.raw_data.records import (
    BadLine,
    BadLines,
    RawFile,
    json_object,
    lines,
    rating_of,
    token_of,
)
from recbole_mscgrec.storage.errors import UserError


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.zip"])
def test_lines_have_their_numbers(tmp_path: Path, name: str) -> None:
    text = "one\r\n\n  \nfour\nfive"
    if name == "a.zip":
        file = RawFile(zip_of(tmp_path / name, {"in/b.txt": text.encode()}), "in/b.txt")
        assert file.base == "b.txt" and str(file).endswith("a.zip:in/b.txt")
    else:
        file = RawFile(write(tmp_path / name, text))
        assert file.base == "a.txt"
    assert list(lines(file)) == [(1, b"one\r\n"), (4, b"four\n"), (5, b"five")]
    assert file.position == file.size > 0


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(5000)))
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="a.jsonl.gz ends early"):
        list(lines(RawFile(file)))
    file.write_bytes(whole[:100] + b"xxxx" + whole[104:])
    with pytest.raises(UserError, match="a.jsonl.gz is damaged"):
        list(lines(RawFile(file)))
    file.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="a.jsonl.gz is damaged"):
        list(lines(RawFile(file)))


def test_a_file_without_line_breaks_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_LONGEST", 100)
    with pytest.raises(UserError, match="line 2 has more than 100 bytes"):
        list(lines(RawFile(write(tmp_path / "a", "x\n" + "y" * 101))))


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b"\xff{}", b"[" * 100_000, b"{'a': 1}"])
def test_what_is_no_json_object(line: bytes) -> None:
    with pytest.raises(BadLine, match="JSON"):
        json_object(line)


@pytest.mark.parametrize(
    ("value", "expected"), [("a b", "a b"), (" a ", "a"), (12, "12"), (12.0, "12"), (1.5, "1.5")]
)
def test_ids(value: object, expected: str) -> None:
    assert token_of(value, "the user") == expected


@pytest.mark.parametrize(
    "value", [None, "", " ", "a\tb", True, [], float("nan"), json.loads('"\\ud83d"')]
)
def test_what_is_no_id(value: object) -> None:
    with pytest.raises(BadLine, match="the user is"):
        token_of(value, "the user")


def test_ratings() -> None:
    assert rating_of("4.5") == 4.5 and rating_of(3) == 3.0
    assert rating_of("") != rating_of("") and rating_of(None) != rating_of(None)
    for value in ("good", "inf", [], {}):
        with pytest.raises(BadLine, match="rating"):
            rating_of(value)


def test_bad_lines_are_counted_up_to_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    bad, file = BadLines(6), RawFile(Path("r.csv"))
    for n in range(6):
        bad.add(file, n, "no user.")
    assert len(bad.first) == len(caplog.records) == 5
    with pytest.raises(UserError, match="r.csv, line 9: no user. This is bad line number 7"):
        bad.add(file, 9, "no user.")
