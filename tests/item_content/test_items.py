"""The items of a data set, read without RecBole."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_item

from recbole_mscgrec.config.settings import DataFiles
from recbole_mscgrec.item_content.items import read_item_file
from recbole_mscgrec.storage.errors import UserError


def files(tmp_path: Path) -> DataFiles:
    (tmp_path / "d").mkdir(exist_ok=True)
    return DataFiles(tmp_path / "d", "d", "\t", "utf-8")


def write(tmp_path: Path, suffix: str, *rows: str) -> None:
    text = "\n".join(row.replace(" ", "\t") for row in rows) + "\n"
    (files(tmp_path).folder / f"d.{suffix}").write_text(text)


def test_the_first_row_of_each_item(tmp_path: Path) -> None:
    write(tmp_path, "item", "item_id:token t:token", "a x", "b y", "a z", " w")
    found = read_item_file(files(tmp_path))
    assert found.key == "item_id" and found.frame.values.tolist() == [["a", "x"], ["b", "y"]]


@pytest.mark.parametrize("name", ["inter", "train.inter"])
def test_the_column_of_items_is_that_of_the_inter_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "user_id:token asin:token", "u b7", "u b8")
    write(tmp_path, "item", "id:token asin:token", "1 b7", "2 b8")
    assert read_item_file(files(tmp_path)).key == "asin"
    write(tmp_path, "item", "id:token product_id:token", "1 b7", "2 b9")
    assert read_item_file(files(tmp_path)).key == "product_id"  # it holds an item
    assert read_item_file(files(tmp_path), "id").key == "id"


def test_without_an_inter_file_the_likeliest_name_counts(tmp_path: Path) -> None:
    write(tmp_path, "item", "title:token movie_id:token", "x 1")
    assert read_item_file(files(tmp_path)).key == "movie_id"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"d.item does not exist; .*/d holds nothing"):
        read_item_file(files(tmp_path))
    write_item(tmp_path, "d", {"a": "x"})
    with pytest.raises(UserError, match=r"has no column x \(--item_column\); it has \['item_id'"):
        read_item_file(files(tmp_path), "x")
    write(tmp_path, "item", "title:token", "x")
    with pytest.raises(UserError, match=r"no column of item ids among \['title'\].*--item_column"):
        read_item_file(files(tmp_path))
