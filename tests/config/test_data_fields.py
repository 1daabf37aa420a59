"""Columns of user, item and time under other names than RecBole's."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.data import create_dataset
from tiny import protocol

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.data_fields import NAMES, find_fields, header_of
from recbole_mscgrec.storage.errors import UserError

DEFAULT = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"}


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["user_id", "item_id", "timestamp"], {}),
        (["item_id", "user_id", "timestamp", "id", "date"], {}),
        (["user_id", "artist_id", "weight"], {"ITEM_ID_FIELD": "artist_id"}),
        (
            ["review_id", "user_id", "business_id", "stars", "date"],
            {"ITEM_ID_FIELD": "business_id", "TIME_FIELD": "date"},
        ),
        (["UserID", "parent_asin", "asin"], {"USER_ID_FIELD": "UserID", "ITEM_ID_FIELD": "asin"}),
        (["a", "b", "c"], {}),
        ([], {}),
    ],
)
def test_the_likeliest_other_column(columns: list[str], found: dict[str, str]) -> None:
    assert find_fields(columns, DEFAULT) == found


def test_every_default_is_the_likeliest_name() -> None:
    assert {setting: names[0] for setting, names in NAMES.items()} == DEFAULT


@pytest.mark.parametrize("header", ["user_id\titem_id", "user_id:token,item_id:token", ":token"])
def test_a_header_without_types_is_refused(tmp_path: Path, header: str) -> None:
    file = tmp_path / "d.inter"
    file.write_text(f"{header}\nu\ti\n")
    if header.count(":") == 2:  # one column, for all that anybody can tell
        assert list(header_of(file, "\t", None)) == ["user_id:token,item_id"]
        return
    with pytest.raises(ValueError, match=r"d.inter: the header is .* name:type.*field_separator"):
        header_of(file, "\t", None)


def write(folder: Path, columns: str) -> None:
    file = folder / "data" / "d" / "d.inter"
    file.parent.mkdir(parents=True)
    rows = [f"u{u}\ti{(u + t) % 9}\t{1_700_000_000 + 5 * t}" for u in range(9) for t in range(6)]
    file.write_text("\n".join([columns, *reversed(rows)]) + "\n")


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec", "Pop"])
def test_found_columns_are_loaded(tmp_path: Path, model: str) -> None:
    write(tmp_path, "customer_id:token\tproduct_id:token\tdate:float")
    chosen = protocol(tmp_path)
    del chosen["load_col"]
    config = Config(model, "d", config_dict=chosen)
    assert config["load_col"] == {"inter": ["customer_id", "product_id", "date"]}
    test = create_dataset(config).build()[2]
    users = [int(test.id2token("customer_id", u)[1:]) for u in test.inter_feat["customer_id"]]
    items = [test.id2token("product_id", i) for i in test.inter_feat["product_id"]]
    assert items == [f"i{(u + 5) % 9}" for u in users]


def test_what_the_user_names_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path, "user_id:token\tproduct_id:token\tdate:float")
    config = Config("SASRec", "d", config_dict=protocol(tmp_path, ITEM_ID_FIELD="thing"))
    assert (config["ITEM_ID_FIELD"], config["TIME_FIELD"]) == ("thing", "date")


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "d.inter"
    file.write_bytes("größe:token\titem_id:token\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"d.inter is not a text in utf-8 .* byte 2\): set encod"):
        header_of(file, "\t", None)
    assert list(header_of(file, "\t", "latin-1")) == ["größe", "item_id"]
