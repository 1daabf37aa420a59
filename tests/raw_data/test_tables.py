"""Tables of any columns, sequences and PixelRec."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_files import START, csv_file, prepare, rule_rows, table, write
from tiny import settings

from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.features.text_columns import text_columns_of
from recbole_mscgrec.runner.quick_start import run

ALL = ["--min_user_interactions=1", "--min_item_interactions=1"]
COLUMNS = ["--user=u", "--item=i"]


def prepared(folder: Path, source: str, *arguments: object) -> list[list[str]]:
    """The rows of the .inter file, without the header."""
    assert prepare(source, "--name=d", f"--data_path={folder / 'data'}", *arguments) == 0
    return table(folder / "data" / "d" / "d.inter")[1:]


def test_tables_of_a_shop_become_a_trained_epoch(tmp_path: Path) -> None:
    rows = [(7, u, f"2020-09-13 12:{26 + t // 60}:40", i, 3) for u, i, t in rule_rows()]
    csv_file(tmp_path / "orders.csv", ["n", "customer", "when", "sku", "stars"], rows)
    items = [
        (f"i{n}", f'The "{n}"\t"" new,\nbig', f"${n}.50", f"http://x/{n}.jpg", f"kind {n % 3}")
        for n in range(20)
    ]
    csv_file(tmp_path / "products.csv", ["id", "Title (en)", "price", "photo", "category"], items)
    columns = ["--user=customer", "--item=sku", "--time=when", "--rating=stars"]
    more = [
        f"--items={tmp_path / 'products.csv'}",
        "--item_key=id",
        "--text",
        "Title (en)",
        "category",
    ]
    more += ["--number=price", "--image_url=photo"]
    found = prepared(tmp_path, "csv", f"--from={tmp_path / 'orders.csv'}", *columns, *more)
    assert found[0] == ["u0", "i0", "3.0", "1600000000"] and len(found) == 240
    path = tmp_path / "data" / "d" / "d.item"
    file = read_atomic_file(path, "\t", None)
    assert file.types == {
        "item_id": "token", "Title_en": "token_seq", "category": "token_seq",
        "price": "float", "image_url": "token",
    }  # fmt: skip
    row = file.frame[file.frame["item_id"] == "i7"].iloc[0].tolist()
    assert row == ["i7", 'The "7" " new, big', "kind 1", "7.5", "http://x/7.jpg"]
    assert text_columns_of(file.frame, file.types, "item_id") == ["Title_en", "category"]
    chosen = settings(tmp_path)
    del chosen["load_col"]
    assert run("MSCGRec", "d", config_dict=chosen)["test_result"]["recall@10"] >= 0


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
def test_the_separator_is_found_from_the_header(tmp_path: Path, separator: str) -> None:
    lines = [["x", "u", "i", "t"], ["a b,c" if separator != "," else "a b", "u1", "i1", "17"]]
    file = write(tmp_path / "r.txt", "".join(separator.join(line) + "\n" for line in lines))
    assert prepared(tmp_path, "csv", f"--from={file}", *COLUMNS, "--time=t", *ALL) == [
        ["u1", "i1", "17"]
    ]


def test_without_times_the_order_of_the_rows_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.txt", "1 9\n2 8\n1 7\n\n1 8\n")
    given = ["--no_header", "--separator= ", "--user=1", "--item=2", *ALL]
    assert prepared(tmp_path, "csv", f"--from={file}", *given) == [
        ["1", "9", "1"], ["1", "7", "2"], ["1", "8", "3"], ["2", "8", "1"],
    ]  # fmt: skip
    assert "timestamp is the position" in (tmp_path / "data/d/d.card.md").read_text()


def test_atomic_files_are_tables_too(tmp_path: Path) -> None:
    inter = write(
        tmp_path / "a.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t17.5\n"
    )
    item = write(tmp_path / "a.item", 'item_id:token\ttitle:token_seq\ni\t"Open" water\n')
    given = [f"--from={inter}", "--user=user_id", "--item=item_id", "--time=timestamp", *ALL]
    more = [f"--items={item}", "--text=title", "--no_quotes"]
    assert prepared(tmp_path, "csv", *given, *more) == [["u", "i", "17.5"]]
    found = table(tmp_path / "data" / "d" / "d.item")
    assert found == [["item_id:token", "title:token_seq"], ["i", '"Open" water']]


def test_numbers_that_are_not_are_counted_on_the_card(tmp_path: Path) -> None:
    rows = [("i1", "12,50", "-33.9"), ("i2", "9,99", "5e-3"), ("i3", "1,299", "heavy")]
    file = csv_file(tmp_path / "r.csv", ["i", "price", "weight"], rows)
    given = [f"--from={file}", "--user=i", "--item=i", *ALL]
    prepared(tmp_path, "csv", *given, f"--items={file}", "--number", "price", "weight")
    found = table(tmp_path / "data" / "d" / "d.item")[1:]
    assert found == [["i1", "12.5", "-33.9"], ["i2", "9.99", "0.005"], ["i3", "1299.0", ""]]
    card = (tmp_path / "data/d/d.card.md").read_text()
    assert "Cells of the number column weight that are not numbers, left empty: 1." in card


def test_ratings_below_the_least_are_dropped(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", n, rating) for n, rating in enumerate(["5", "3.5", "", "4"])]
    file = csv_file(tmp_path / "r.csv", ["u", "i", "t", "r"], rows)
    given = [f"--from={file}", *COLUMNS, "--time=t", "--rating=r", *ALL]
    assert [row[2] for row in prepared(tmp_path, "csv", *given)] == ["5.0", "3.5", "", "4.0"]
    found = prepared(tmp_path, "csv", *given, "--min_rating=4", "--overwrite")
    assert [row[1] for row in found] == ["i0", "i3"]


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ("csv", COLUMNS, "--min_rating (4) needs --rating"),
        ("sequences", [], "--min_rating (4) needs ratings, and sequences has none"),
        ("pixelrec", [], "--min_rating (4) needs ratings, and pixelrec has none"),
    ],
)
def test_the_least_rating_needs_ratings(
    tmp_path: Path,
    source: str,
    columns: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    csv_file(tmp_path / "r.csv", ["u", "i"], [("u1", "i1")])
    assert prepare(source, "--name=d", "--from=r.csv", *columns, "--min_rating=4") == 1
    assert message in capsys.readouterr().err


def test_several_files_and_folders(tmp_path: Path) -> None:
    csv_file(tmp_path / "in" / "a.csv.gz", ["u", "i"], [("u", "i1")])
    csv_file(tmp_path / "in" / "b" / "c.csv", ["i", "u"], [("i2", "u")])  # its own order of columns
    found = prepared(tmp_path, "csv", f"--from={tmp_path / 'in'}", *COLUMNS, *ALL)
    assert [row[:2] for row in found] == [["u", "i1"], ["u", "i2"]]


def test_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    times = pd.to_datetime([START * 10**9 + 5, (START + 1) * 10**9, None])
    frame = pd.DataFrame(
        {"u": [1.0, 1.0, 2.0], "i": [10, 11, 12], "t": times, "text": ["a b", None, "c"]}
    )
    frame.to_parquet(tmp_path / "r.parquet")
    file = tmp_path / "r.parquet"
    given = [f"--from={file}", *COLUMNS, "--time=t", *ALL]
    items = [f"--items={file}", "--text=text"]
    assert prepared(tmp_path, "csv", *given, *items) == [
        ["1", "10", f"{START}.000000005"], ["1", "11", f"{START + 1}"],
    ]  # fmt: skip
    assert "line 3: the time is missing" in (tmp_path / "data/d/d.card.md").read_text()
    assert table(tmp_path / "data" / "d" / "d.item")[1:] == [["10", "a b"], ["11", ""]]
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert prepare("csv", "--name=e", f"--data_path={tmp_path}", *given) == 1
    assert "pip install 'recbole-mscgrec[parquet]'" in capsys.readouterr().err


def test_bytes_in_parquet_are_texts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"u": [b"a", b"a", b"b"], "i": [b"1", "\u00e9".encode(), b"\xe9"]})
    frame.to_parquet(tmp_path / "r.parquet")
    given = [f"--from={tmp_path / 'r.parquet'}", *COLUMNS, *ALL]
    assert prepared(tmp_path, "csv", *given) == [["a", "1", "1"], ["a", "\u00e9", "2"]]
    assert "line 3: bytes that are not utf-8" in (tmp_path / "data/d/d.card.md").read_text()


def test_parquet_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "r.parquet", "no parquet")
    assert prepare("csv", "--name=d", f"--data_path={tmp_path}", f"--from={file}", *COLUMNS) == 1
    assert "r.parquet, after row 0: this cannot be read as parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user=usr", "--item=i"], "has no column usr. Its columns are .*Did you mean user?"),
        (["--user=user", "--item=i", "--time=date"], "has no column date"),
        (["--user=user", "--item=i", "--text=title"], "need --items FILE"),
        (["--user=user", "--item=i", "--items=r.csv"], "--items needs --item_key, and columns"),
        (["--user=user", "--item=i", "--items=r.csv", "--text=titel"], "titel.*Did you mean title"),
        (["--user=user", "--item=i", "--items=r.csv", "--text", "title", "title"], "named twice"),
        (["--user=user", "--item=i", "--items=r.csv", "--text=item_id"], r"--text \(item_id\)"),
        (["--user=user", "--item=i", "--items=r.csv", "--number=item id"], r"--number \(item id\)"),
        (["--user=user", "--item=i", "--encoding=utf-99"], "is not the name of an encoding"),
        (["--user=user", "--item=i", "--encoding=utf-16"], "convert the file to UTF-8"),
        (["--user=user", "--item=i", "--items=r.csv", "--item_key=t", "--text=title"],
         "None of the 1 items, such as i1, has a row"),
    ],
)  # fmt: skip
def test_wrong_columns_are_named(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    csv_file(tmp_path / "r.csv", ["user", "i", "t", "title"], [("u1", "i1", 17, "x")])
    given = ["--name=d", "--data_path=data", "--from=r.csv", *ALL]
    assert prepare("csv", *given, *arguments) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_no_files_and_wrong_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("csv", "--name=d", *COLUMNS) == 1
    assert "Name the table of interactions with --from" in capsys.readouterr().err
    (tmp_path / "orders.csv").touch()
    assert prepare("csv", "--name=d", *COLUMNS, "--from=order.csv") == 1
    assert "order.csv does not exist. Did you mean orders.csv?" in capsys.readouterr().err
    assert prepare("csv", "--name=d", *COLUMNS, "--from=orders.csv") == 1
    assert "orders.csv hold no interaction" in capsys.readouterr().err


def test_sequences(tmp_path: Path) -> None:
    file = write(tmp_path / "s.txt", "bob 3 1 3\nann 2\r\n")
    assert prepared(tmp_path, "sequences", f"--from={file}") == [
        ["bob", "3", "1"], ["bob", "1", "2"], ["bob", "3", "3"], ["ann", "2", "1"],
    ]  # fmt: skip
    items = csv_file(tmp_path / "i.csv", ["id", "name"], [("3", "three"), ("1", "one"), ("9", "x")])
    more = ["--no_user", f"--items={items}", "--item_key=id", "--text=name", "--overwrite"]
    write(file, "3,1\nred,1\n")
    assert prepared(tmp_path, "sequences", f"--from={file}", "--separator=,", *more) == [
        ["1", "3", "1"], ["1", "1", "2"], ["2", "red", "1"], ["2", "1", "2"],
    ]  # fmt: skip
    found = table(tmp_path / "data" / "d" / "d.item")
    assert found == [["item_id:token", "name:token_seq"], ["3", "three"], ["1", "one"], ["red", ""]]


def test_sequences_with_bad_lines(tmp_path: Path) -> None:
    file = tmp_path / "s.txt"
    file.write_bytes(b"ann\nbob 1 2\ncarl caf\xe9\n")
    assert prepared(tmp_path, "sequences", f"--from={file}") == [
        ["bob", "1", "1"],
        ["bob", "2", "2"],
    ]
    card = (tmp_path / "data/d/d.card.md").read_text()
    assert "line 1: a line is `user item item ...`" in card and "line 3: bytes that are not" in card


@pytest.mark.parametrize(("line", "more"), [("bob, 1, 2", []), ("1; 2; 3", ["--no_user"])])
def test_signs_between_ids_do_not_become_part_of_them(
    tmp_path: Path, line: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "s.txt", f"{line}\n")
    given = ["--name=d", f"--data_path={tmp_path / 'data'}", f"--from={file}", "--max_bad_lines=0"]
    assert prepare("sequences", *given, *more) == 1
    assert re.search("every id but the last ends with '[,;]': use --sep", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_occurs_twice_is_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two columns `item`, pyarrow gave neither, but the last chosen one: the time."""
    names, rows = ["user", "item", "time", "item"], [("u", "a", 1, "x"), ("u", "b", 2, "y")]
    file = tmp_path / f"r.{kind}"
    if kind == "csv":
        csv_file(file, names, rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [pyarrow.array(column) for column in zip(*rows, strict=True)]
        parquet.write_table(pyarrow.table(columns, names=names), file)
    given = ["--name=d", f"--data_path={tmp_path / 'data'}", f"--from={file}"]
    assert prepare("csv", *given, "--user=user", "--item=item", "--time=time") == 1
    assert f"r.{kind} has 2 columns named item: rename" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["sequences", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path, source: str) -> None:
    file = write(tmp_path / "s.txt", "u1 i1\nu1 i2\n", encoding="utf-8-sig")
    columns = ["--no_header", "--separator= ", "--user=1", "--item=2", *ALL]
    given = [f"--from={file}", *(columns if source == "csv" else [])]
    assert prepared(tmp_path, source, *given) == [["u1", "i1", "1"], ["u1", "i2", "2"]]


def test_pixelrec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"v{n % 4}", f"u{n % 3}", START + n) for n in range(12)]
    csv_file(tmp_path / "in" / "Pixel50K.csv", ["item_id", "user_id", "timestamp"], rows)
    counts = ["view_number", "comment_number", "thumbup_number", "share_number", "coin_number"]
    header = [
        "item_id",
        *counts,
        "favorite_number",
        "barrage_number",
        "title",
        "tag",
        "description",
    ]
    items = [(f"v{n}", *[1.0] * 7, f"title {n} \U0001f600", "game", "") for n in range(4)]
    csv_file(tmp_path / "in" / "item_info.csv", header, items)
    found = prepared(tmp_path, "pixelrec", f"--from={tmp_path / 'in'}")
    assert len(found) == 12 and found[0] == ["u0", "v0", f"{START}"]
    assert table(tmp_path / "data" / "d" / "d.item")[:2] == [
        ["item_id:token", "title:token_seq", "tag:token_seq"],
        ["v0", "title 0 \U0001f600", "game"],
    ]
    card = (tmp_path / "data/d/d.card.md").read_text()
    assert "must not be redistributed" in card and "prepare images --folder" in card
    (tmp_path / "in" / "Pixel50K.csv").unlink()
    assert prepare("pixelrec", "--name=e", f"--from={tmp_path / 'in'}") == 1
    assert "one csv file must have the columns" in capsys.readouterr().err
    assert prepare("pixelrec", "--name=e") == 1
    assert "Google Drive" in capsys.readouterr().err
