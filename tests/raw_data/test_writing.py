"""What is written is what the reader of atomic files reads; equal hashes are no silent merge."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from raw_files import csv_file, prepare, table, write

from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.raw_data import spool

ARGUMENTS = ["csv", "--name=d", "--data_path=data", "--from=r.csv", "--user=u", "--item=i"]
ARGUMENTS += ["--min_user_interactions=1", "--min_item_interactions=1"]
ODD = [
    "NA",
    "null",
    '"quoted"',
    "5' 6\"",
    "\u00e9\u2028x",
    " lead",
    "a,b",
    "\ud7ff",
    "[1]",
    "\U0001f600",
]


def test_odd_ids_and_texts_are_read_as_they_were(tmp_path: Path) -> None:
    csv_file(tmp_path / "r.csv", ["u", "i", "text"], [(x, x, f'{x} "") "') for x in ODD])
    assert prepare(*ARGUMENTS, "--items=r.csv", "--text=text") == 0
    inter = read_atomic_file(tmp_path / "data/d/d.inter", "\t", None)
    assert inter.frame["user_id"].tolist() == [x.strip() for x in ODD]
    assert inter.frame["item_id"].tolist() == [x.strip() for x in ODD]
    item = read_atomic_file(tmp_path / "data/d/d.item", "\t", None)
    texts = [re.sub(r"\s", " ", x.strip()) + ' ") "' for x in ODD]
    assert dict(item.frame.values) == dict(zip(inter.frame["item_id"], texts, strict=True))


def test_cells_that_look_like_those_of_csv_keep_their_quotes(tmp_path: Path) -> None:
    """The reader unquotes a file if all cells with a quote are quoted and one doubles a quote."""
    csv_file(tmp_path / "r.csv", ["u", "i", "text"], [("u", "i1", '"a ""b"" c"'), ("u", "i2", "x")])
    assert prepare(*ARGUMENTS, "--items=r.csv", "--text=text") == 0
    item = read_atomic_file(tmp_path / "data/d/d.item", "\t", None)
    assert item.frame["text"].tolist() == ['"a "b" c"', "x"]


@pytest.mark.parametrize("bad", ["a\tb", 'a""b', "[PAD]", "a\nb", " ", "\x00", "a\x1fb"])
def test_ids_that_an_atomic_file_cannot_hold_are_bad_lines(tmp_path: Path, bad: str) -> None:
    quoted = bad.replace('"', '""')
    write(tmp_path / "r.csv", f'u,i\nu,i1\nu,"{quoted}"\n"{quoted}",i2\n')
    assert prepare(*ARGUMENTS) == 0
    assert [row[:2] for row in table(tmp_path / "data/d/d.inter")[1:]] == [["u", "i1"]]
    assert "Skipped: 2." in (tmp_path / "data/d/d.card.md").read_text()


@pytest.mark.parametrize("column", ["u", "i"])
def test_two_tokens_of_one_hash_are_an_error(
    tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = spool.hash_of
    twins = {f"{column}1".encode(): 5, f"{column}2".encode(): 5}
    monkeypatch.setattr(spool, "hash_of", lambda token: twins.get(token) or original(token))
    csv_file(
        tmp_path / "r.csv", ["u", "i"], [("u1", "i1"), ("u2", "i2"), ("u1", "i2"), ("u2", "i1")]
    )
    assert prepare(*ARGUMENTS, "--repeats=all") == 1
    assert re.search(f"ids {column}[12] and {column}[12] have the same", capsys.readouterr().err)
    assert not (tmp_path / "data/d/d.inter").exists()


def test_columns_without_a_value_are_left_out(tmp_path: Path) -> None:
    csv_file(tmp_path / "r.csv", ["u", "i", "r", "p", "text"], [("u", "i1", "", "free", "null")])
    more = ["--rating=r", "--items=r.csv", "--number=p", "--text=text"]
    assert prepare(*ARGUMENTS, *more) == 0
    assert table(tmp_path / "data/d/d.inter")[0] == [
        "user_id:token",
        "item_id:token",
        "timestamp:float",
    ]
    assert not (tmp_path / "data/d/d.item").exists()
    assert (
        "left out, because no item has a value: text, p"
        in (tmp_path / "data/d/d.card.md").read_text()
    )
