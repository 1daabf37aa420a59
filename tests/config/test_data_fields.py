"""Columns of user, item and time under other names than RecBole's."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.data import create_dataset
from tiny import item_texts, protocol, rule_sequences, settings, write_dataset

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.data_fields import NAMES, find_fields, header_of
from recbole_mscgrec.runner.quick_start import run
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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id\titem_id", r"the header is .* name:type.*field_separator"),
        (":token", r"the header is .* name:type.*field_separator"),
        ("a:b:token\titem_id:token", r"the header is .* name:type.*field_separator"),
        ("user_id:token,item_id:token", r"separated by ',' .*--field_separator=\",\" reads"),
        ("user_id:token item_id:token", r"separated by ' ' .*--field_separator=\" \" reads"),
        ("user_id:token\titem_id:int", r"column item_id has the type 'int' .* token, token_seq"),
        ("user_id:token\tuser_id:token", r"names column user_id twice"),
        ("u\0s\0e\0r\0", r"d.inter is not UTF-8: try --encoding=utf-16"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, header: str, message: str) -> None:
    file = tmp_path / "d.inter"
    file.write_text(f"{header}\nu\ti\n")
    with pytest.raises(UserError, match=message):
        header_of(file, "\t", None)


@pytest.mark.parametrize(
    "written", ["a:token\tb:float\n", "\ufeffa:token\tb:float\r\n", '"a:token"\t"b:float"']
)
def test_every_way_to_write_a_header(tmp_path: Path, written: str) -> None:
    file = tmp_path / "d.inter"
    file.write_bytes(written.encode())
    assert header_of(file, "\t", None) == {"a": "token", "b": "float"}


def test_an_encoding_that_does_not_exist_is_named(tmp_path: Path) -> None:
    write(tmp_path, "user_id:token\titem_id:token\tdate:float")
    with pytest.raises(UserError, match=r"encoding \('utf-99'\) must be one that Python knows"):
        Config("SASRec", "d", config_dict=protocol(tmp_path, encoding="utf-99"))


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


@pytest.mark.parametrize("model", ["MSCGRec", "MSCGRecTokenizer", "TiledSASRec", "TiledGRU4Rec"])
def test_names_of_columns_change_no_result(tmp_path: Path, model: str) -> None:
    names = {"user_id": "who", "item_id": "asin", "timestamp": "when"}
    for folder in ("plain", "named"):
        write_dataset(tmp_path / folder / "data", "rule", rule_sequences(), item_texts())
    for file in (tmp_path / "named" / "data" / "rule").iterdir():
        text = file.read_text()
        for name, other in names.items():
            text = text.replace(name, other)
        file.write_text(text)
    named = dict(zip(DEFAULT, names.values(), strict=True))
    named |= {"LIST_SUFFIX": "_history", "ITEM_LIST_LENGTH_FIELD": "n_items_before"}
    sizes = settings if model.startswith("MSCGRec") else protocol
    results = []
    for folder, changes in (("plain", {}), ("named", named)):
        chosen = sizes(tmp_path / folder, **changes)
        del chosen["load_col"]
        results.append(run(model, "rule", config_dict=chosen)["test_result"])
    assert results[0] == results[1]
