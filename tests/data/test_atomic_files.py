"""One reader of atomic files: one rule for quotes, and no row is lost."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_mscgrec.data.atomic_files import (
    AtomicFile,
    first_of_each,
    numbers_of,
    read_atomic_file,
)
from recbole_mscgrec.storage.errors import UserError

HEAD = "item_id:token\ttitle:token_seq\n"


def read(
    folder: Path, content: str | bytes, separator: str = "\t", encoding: str | None = None
) -> AtomicFile:
    file = folder / "d.item"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_atomic_file(file, separator, encoding)


PLAIN = {
    "no quote": ("i1\ta\ni2\tb\n", [["i1", "a"], ["i2", "b"]]),
    "a quote at the beginning": ('i1\t"Weird Al" live\n', [["i1", '"Weird Al" live']]),
    "quotes that nothing closes": ('i1\t"open\ni2\tb\n', [["i1", '"open'], ["i2", "b"]]),
    "quotes across rows": ('i1\t"open\ni2\tclose"\n', [["i1", '"open'], ["i2", 'close"']]),
    "a title in quotes": ('i1\t"Heroes"\ni2\tb\n', [["i1", '"Heroes"'], ["i2", "b"]]),
    "inches": ('i1\t5" disk\ni2\t""\n', [["i1", '5" disk'], ["i2", '""']]),
    "empty lines": ("i1\ta\n\n  \ni2\tb", [["i1", "a"], ["i2", "b"]]),
    "Windows": ("i1\ta\r\ni2\tb\r\n", [["i1", "a"], ["i2", "b"]]),
    "other breaks": ("i1\ta\u2028b\x0bc\rd\x85\n", [["i1", "a\u2028b\x0bc\rd\x85"]]),
    "names that pandas drops": ("NA\tnull\nnan\t\n", [["NA", "null"], ["nan", ""]]),
    "spaces": (" i1\t a \n", [[" i1", " a "]]),
}
QUOTED = {
    "a quote": ('i1\t"5"" disk"\ni2\tb\n', [["i1", '5" disk'], ["i2", "b"]]),
    "breaks": ('i1\t"two\n\nlines"\ni2\tb\n', [["i1", "two\n\nlines"], ["i2", "b"]]),
    "a separator": ('i1\t"a\tb"\ni2\tb\n', [["i1", "a\tb"], ["i2", "b"]]),
    "all": ('"i1"\t"a"\n"i2"\t"say ""b"""\n', [["i1", "a"], ["i2", 'say "b"']]),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_files_are_read_as_they_are(tmp_path: Path, case: str) -> None:
    body, expected = PLAIN[case]
    assert read(tmp_path, HEAD + body).frame.values.tolist() == expected


@pytest.mark.parametrize("case", QUOTED)
def test_files_of_pandas_and_csv_lose_their_quotes(tmp_path: Path, case: str) -> None:
    body, expected = QUOTED[case]
    assert read(tmp_path, HEAD + body).frame.values.tolist() == expected


def test_a_quoted_header_quotes_every_cell(tmp_path: Path) -> None:
    found = read(tmp_path, '"item_id:token"\t"title:token_seq"\n"i1"\t"a"\n"i2"\t3\n')
    assert found.types == {"item_id": "token", "title": "token_seq"}
    assert found.frame.values.tolist() == [["i1", "a"], ["i2", "3"]]


def test_every_row_knows_its_line(tmp_path: Path) -> None:
    assert read(tmp_path, HEAD + "i1\ta\n\ni2\tb\n").lines.tolist() == [2, 4]
    body = 'i1\t"two\nlines"\n\ni2\t"a\tb"\ni3\tc\n'
    assert read(tmp_path, HEAD + body).lines.tolist() == [2, 5, 6]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", r"d.item has a header and no rows"),
        ("\n \n", r"d.item has a header and no rows"),
        ("i1\ta\ni2\tb\tc\n", r"d.item, line 3: 3 cells, and the header has 2 columns"),
        ('i1\t"two\nlines\ni2\tb\n', r"d.item, line 3: this file has cells with quotes"),
        ('i1\t"a\tb\n', r"d.item, line 2: this file has cells with quotes .*to_csv"),
    ],
)
def test_rows_that_fit_no_way_are_refused_with_their_line(
    tmp_path: Path, body: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, HEAD + body)


def test_cells_that_a_row_lacks_are_missing_values_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = "item_id:token\tprice:float\tbrand:token\n"
    found = read(tmp_path, head + "i1\t3\tb\ni2\ni3\t4\n")
    assert found.frame.values.tolist() == [["i1", "3", "b"], ["i2", "", ""], ["i3", "4", ""]]
    (line,) = caplog.messages
    assert "2 rows have fewer cells than the header" in line and "lines 3, 4" in line


def test_bytes_of_another_encoding_are_named_with_their_line(tmp_path: Path) -> None:
    content = (HEAD + "i1\ta\ni2\té\n").encode("latin-1")
    with pytest.raises(UserError, match=r"d.item, line 3: byte 0xe9 is not utf-8.*--encoding="):
        read(tmp_path, content)
    with pytest.raises(UserError, match=r"d.item, line 3: byte 0xe9 is not utf-8"):
        read(tmp_path, b"\xef\xbb\xbf" + content)  # with a mark of UTF-8
    assert read(tmp_path, content, encoding="latin-1").frame.values.tolist()[1] == ["i2", "é"]
    wide = (HEAD + "i1\té\n").encode("utf-16")
    assert read(tmp_path, wide, encoding="utf-16").frame.values.tolist() == [["i1", "é"]]


def test_a_mark_of_utf_8_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for encoding in (None, "utf-8", "utf8", "UTF-8"):
        found = read(tmp_path, "\ufeff" + HEAD + "i1\ta\n", encoding=encoding)
        assert list(found.frame) == ["item_id", "title"]


@pytest.mark.parametrize("separator", [",", "::", "|"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    content = (HEAD + "i1\ta\n").replace("\t", separator)
    assert read(tmp_path, content, separator).frame.values.tolist() == [["i1", "a"]]


def written_by_hand(cells: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in cells)


@pytest.mark.parametrize("seed", range(20))
def test_what_anybody_wrote_is_what_is_read(tmp_path: Path, seed: int) -> None:
    """Random cells, written by hand, by pandas, and by pandas with a quote around every cell."""
    draw = random.Random(seed)
    letters = ["a", "b", " ", '"', '""', ",", "é", "NA"]
    columns = {"item_id:token": "i", "title:token_seq": "", "brand:token": ""}

    def cell(start: str, more: list[str]) -> str:
        return start + "".join(draw.choices(letters + more, k=draw.randint(0, 5)))

    plain = [[cell("i", []), cell("", []), cell("x", [])] for _ in range(30)]
    # A cell that looks as csv would write it, and all others like it, cannot be told from csv's.
    plain.append(["i", '"a" b', "x"])
    header = "\t".join(columns) + "\n"
    assert read(tmp_path, header + written_by_hand(plain)).frame.values.tolist() == plain

    more = ["\n", "\t", "\r\n"]
    cells = [[cell("i", more), cell("", more), cell("x", more)] for _ in range(30)]
    frame = pd.DataFrame(cells, columns=list(columns))
    expected = [[c.replace("\r\n", "\n") for c in row] for row in cells]
    for quoting in (0, 1):
        file = tmp_path / "d.item"
        frame.to_csv(file, sep="\t", index=False, quoting=quoting)
        assert read_atomic_file(file, "\t", None).frame.values.tolist() == expected


# --- numbers --------------------------------------------------------------------------------------


def numbers(texts: list[str]) -> list[float]:
    lines = np.arange(2, 2 + len(texts))
    return numbers_of(texts, lines, Path("d.item"), "price").tolist()


def test_numbers_and_missing_ones() -> None:
    assert numbers(["3", " 0.5 ", "1e-3", "-2"]) == [3.0, 0.5, 0.001, -2.0]
    missing = ["", " ", "NA", "nan", "None", "null", "N/A"]
    assert np.isnan(numbers(missing)).all() and np.isnan(numbers([""])).all()


@pytest.mark.parametrize("wrong", ["—", "2024-05-01", "3 EUR", "inf", "1,5"])
def test_what_is_no_number_is_named_with_its_line(wrong: str) -> None:
    with pytest.raises(UserError, match=rf"d.item, line 4: '{wrong}' in column price is not a num"):
        numbers(["1", "NA", wrong, wrong])


# --- items ----------------------------------------------------------------------------------------


def test_the_first_row_of_an_item_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = "i1\ta\ni2\tb\ni1\t\n\tc\ni1\td\ni2\t\ni3\te\n"
    found = first_of_each(read(tmp_path, HEAD + body), "item_id")
    assert found.frame.values.tolist() == [["i1", "a"], ["i2", "b"], ["i3", "e"]]
    assert found.lines.tolist() == [2, 3, 8]
    repeated, unnamed = caplog.messages
    assert "3 rows repeat the item_id of an earlier row" in repeated
    assert repeated.endswith("first i1, i2.")
    assert "1 rows have no item_id" in unnamed and "line 5" in unnamed


def test_a_file_that_names_each_item_once_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = read(tmp_path, HEAD + "i1\ta\ni2\tb\n")
    assert first_of_each(file, "item_id") is file and not caplog.messages
