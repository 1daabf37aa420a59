"""Which columns are text, and how their values read."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_mscgrec.features.text_columns import clean_text, text_columns_of


def found(columns: dict[str, tuple[str, list[str]]]) -> list[str]:
    """Columns given as name -> (type, values)."""
    frame = pd.DataFrame(
        {"item_id": ["1", "2", "3", "4"]} | {k: v for k, (_, v) in columns.items()}
    )
    types = {"item_id": "token"} | {name: kind for name, (kind, _) in columns.items()}
    return text_columns_of(frame, types, "item_id")


PLAIN = ["red", "blue", "green", "red"]


@pytest.mark.parametrize(
    "name",
    "title movie_title productTitle Name item_name description plot brand author book_author genre"
    " genres class classes category categories sub_category tags keywords features store".split(),
)
@pytest.mark.parametrize("kind", ["token", "token_seq"])
def test_names_of_text(name: str, kind: str) -> None:
    assert found({name: (kind, PLAIN)}) == [name]


@pytest.mark.parametrize(
    "name",
    "title_id brand_code picture_url image_name release_date year price_category category_id"
    " average_rating sales_rank postal_code zip_code title_entities colour kind".split(),
)
def test_names_of_no_text(name: str) -> None:
    assert found({name: ("token", PLAIN)}) == []


@pytest.mark.parametrize(
    ("values", "is_text"),
    [
        (["a red lamp", "one chair", "pen", "old book"], True),
        (["a red lamp", "chair", "pen", "old book"], False),  # half is not most
        (["two words", "", "", ""], True),
        (["", "", "", ""], False),
        (["12", "13.5", "1e5", "7"], False),
        (["2020-01-02 10:00", "2021-03-04 11:30", "2021-03-05 12:00", ""], False),
        (["http://a.org/a b", "https://b.org x", "www.c.org y", "z z"], False),
        (['[{"a": 1}, {"b": 2}]'] * 4, False),
    ],
)
def test_values_decide_where_the_name_does_not(values: list[str], is_text: bool) -> None:
    assert found({"column": ("token", values)}) == (["column"] if is_text else [])


def test_numbers_in_a_column_of_a_text_name_are_no_text() -> None:
    assert found({"category": ("token", ["1", "2", "17", "4"])}) == []
    assert found({"title": ("float", PLAIN)}) == found({"title": ("float_seq", PLAIN)}) == []


def test_the_same_column_twice_counts_once() -> None:
    assert found({"app_name": ("token", PLAIN), "title": ("token", PLAIN)}) == ["app_name"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'Beauty', 'Makeup', 'Face'", "Beauty, Makeup, Face"),
        ("'Beauty'", "Beauty"),
        ("['Books', \"Children's\"]", "Books, Children's"),
        ('["A", "B c"]', "A, B c"),
        ("'Men's Shoes', 'Boots'", "Men's Shoes, Boots"),
        ("'Til Death", "'Til Death"),
        ("Salem's Lot", "Salem's Lot"),
        ('The "best" of', 'The "best" of'),
        ("[REC]", "[REC]"),
        ("  plain  ", "plain"),
        ("'", "'"),
        ("nan", ""),
        ("None", ""),
        ("[]", ""),
        ("null", ""),
        ("", ""),
    ],
)
def test_values_read_as_a_reader_sees_them(value: str, text: str) -> None:
    assert clean_text(value) == text
