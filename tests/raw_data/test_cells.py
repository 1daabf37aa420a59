"""The cells of csv files and of files with other separators."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mscgrec.raw_data import cells
from recbole_mscgrec.raw_data.cells import cells_of
from recbole_mscgrec.raw_data.records import BadLine, RawFile
from recbole_mscgrec.storage.errors import UserError


def read(
    folder: Path, text: str | bytes, columns: list[str], separator: str = ",", **more: object
) -> list:
    """Line and cells of each row; the text of the rule where a row is bad."""
    file = folder / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = cells_of(RawFile(file), columns, separator, **more)  # type: ignore[arg-type]
    return [(n, str(c) if isinstance(c, BadLine) else c) for n, c in found]


def test_chosen_columns_in_their_order(tmp_path: Path) -> None:
    text = '\ufeffa,b,"c d"\n1,"x, ""y""",3\n\n4,"two\nlines",6\n7,8,9'
    assert read(tmp_path, text, ["c d", "b"]) == [
        (2, ["3", 'x, "y"']),
        (5, ["6", "two\nlines"]),
        (6, ["9", "8"]),
    ]


def test_rows_that_break_a_rule_are_told_and_the_next_ones_read(tmp_path: Path) -> None:
    text = 'a,b\n1\n1,2,3\n"x"y,2\n3,4\n5,"open\n'
    found = read(tmp_path, text, ["a"])
    assert [n for n, _ in found] == [2, 3, 4, 5, 6]
    assert found[3] == (5, ["3"])
    assert "1 cells instead of 2" in found[0][1] and "3 cells" in found[1][1]
    assert "not csv" in found[2][1] and "not csv" in found[4][1]


def test_bytes_of_another_encoding(tmp_path: Path) -> None:
    text = "a,b\ncaf\u00e9,1\nx,2\n".encode("latin-1")
    assert "not utf-8: name --encoding" in read(tmp_path, text, ["a"])[0][1]
    assert read(tmp_path, text, ["a"], encoding="latin-1") == [(2, ["caf\u00e9"]), (3, ["x"])]


def test_a_separator_of_several_characters_knows_no_quotes(tmp_path: Path) -> None:
    text = '1::"A: b::3\n2::"Open::4\n3::4\n'
    assert read(tmp_path, text, ["2", "1"], "::", header=False) == [
        (1, ['"A: b', "1"]),
        (2, ['"Open', "2"]),
        (3, "2 cells instead of 3 ('::')."),
    ]
    assert read(tmp_path, '1|"A|3\n', ["2"], "|", header=False, quotes=False) == [(1, ['"A'])]


def test_an_unclosed_quote_does_not_swallow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a,b\n1,2\n" + '3,"open\n' + "4,5\n" * 40
    for longest in (50, 10**6):
        monkeypatch.setattr(cells, "_LONGEST_CELL", longest)
        found = read(tmp_path, text, ["a"])
        assert found[0] == (2, ["1"]) and found[1][0] == 3 and "not csv" in found[1][1]
        assert found[2:] == [(n, ["4"]) for n in range(4, 44)]


@pytest.mark.parametrize("between", [0, 1, 3, 3000])
@pytest.mark.parametrize("closing", ['u,i,Single 7",9', 'u,"Single",x,9', 'u,i,"Single",9'])
def test_stray_quotes_do_not_swallow_the_lines_between(
    tmp_path: Path, between: int, closing: str
) -> None:
    text = 'u,i,title,t\nu,i,"Deluxe edition,5\n' + "u,i,x,7\n" * between + f"{closing}\nu,i,y,8\n"
    found = read(tmp_path, text, ["t"])
    assert found[0][0] == 2 and "--no_quotes" in found[0][1]
    assert [c for _, c in found[1:]] == [["7"]] * between + [["9"], ["8"]]


def test_quoted_cells_with_line_breaks_are_texts(tmp_path: Path) -> None:
    rows = ["Soft, warm,\nand light, and red", "a\n" * 50, "x, y\n" * 20, "1,5\nbig\n"]
    text = "id,about\n" + "".join(f'{n},"{row}"\n' for n, row in enumerate(rows))
    assert [c for _, c in read(tmp_path, text, ["about"])] == [[row] for row in rows]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_header_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    text = "kunde;gr\u00f6\u00dfe\n1;2\n".encode(encoding)
    with pytest.raises(UserError, match="t.csv, line 1: the header .*not utf-8: name --encoding"):
        read(tmp_path, text, ["kunde"], ";")
    assert read(tmp_path, text[:2] + b"\xf6;2\n3;4\n", ["1"], ";", header=False)[1][1] == ["3"]


@pytest.mark.parametrize("quotes", [True, False])
@pytest.mark.parametrize("line", ["3,x\0", '3,"x\0"', "3\0,4"])
def test_a_row_with_nul_is_refused_alone(tmp_path: Path, line: str, quotes: bool) -> None:
    found = read(tmp_path, f"a,b\n1,2\n{line}\n5,6\n", ["a"], quotes=quotes)
    assert found[0] == (2, ["1"]) and found[2:] == [(4, ["5"])]
    assert "NUL" in found[1][1]


def test_nul_in_a_cell_of_several_lines(tmp_path: Path) -> None:
    found = read(tmp_path, 'a,b\n1,"x, y\nx\0, y"\n5,6\n', ["a"])
    assert "NUL" in found[0][1] and found[1:] == [(4, ["5"])]
