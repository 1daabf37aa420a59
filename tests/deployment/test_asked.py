"""Histories as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mscgrec.deployment.asked import Asked, of_file, of_texts, tokens_of


def test_tokens_have_commas_between_them() -> None:
    assert tokens_of(" 50, Star Wars ,,172 ") == ["50", "Star Wars", "172"]
    assert tokens_of(",") == []
    assert list(of_texts(["1,2", "3"])) == [Asked("1,2", ["1", "2"]), Asked("3", ["3"])]


def test_lines_of_a_file_are_texts_lists_or_objects(tmp_path: Path) -> None:
    file = tmp_path / "histories.txt"
    file.write_text('1, 2\n\n["3", 4]\n{"history": ["5"]}\n{"user": 7, "history": []}\n')
    assert list(of_file(file)) == [
        Asked("1", ["1", "2"]),
        Asked("3", ["3", "4"]),  # a number is the token of the same digits
        Asked("4", ["5"]),
        Asked("7", []),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path: Path) -> None:
    file = tmp_path / "marked.txt"
    file.write_text("i1\ni2\n", encoding="utf-8-sig")
    assert list(of_file(file)) == [Asked("1", ["i1"]), Asked("2", ["i2"])]


def test_a_line_that_is_none_of_these_is_named(tmp_path: Path) -> None:
    file = tmp_path / "histories.txt"
    file.write_text('1\n{"history": "1,2"}\n')
    with pytest.raises(ValueError, match="line 2: a JSON object needs a list `history`"):
        list(of_file(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        list(of_file(file))
