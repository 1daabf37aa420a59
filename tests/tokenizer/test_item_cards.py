"""What a person knows an item by: which columns, how words are split, popularity, posters."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from recbole.data import create_dataset, data_preparation
from tiny import settings, typed

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.tokenizer.item_cards import (
    Cards,
    item_cards,
    split_words,
    thumbnail,
    title_column,
    words_column,
)


def write_items(folder: Path, lines: list[str]) -> None:
    (folder / "data" / "rule" / "rule.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def cards_of(folder: Path, **changes: Any) -> Cards:
    config = Config("MSCGRecTokenizer", "rule", config_dict=settings(folder, **changes))
    train = data_preparation(config, create_dataset(config))[0]._dataset
    return item_cards(typed(config, train), train)


@pytest.mark.parametrize(
    ("types", "title"),
    [
        ({"id": "token", "plot": "token_seq", "movie_Title": "token_seq"}, "movie_Title"),
        ({"brand_name": "token_seq", "title": "token_seq"}, "brand_name"),
        ({"title": "token", "plot": "token_seq"}, "title"),
        ({"brand": "token", "plot": "token_seq"}, "plot"),
        ({"brand": "token", "title": "float"}, None),
    ],
)
def test_which_column_is_the_title(types: dict[str, str], title: str | None) -> None:
    assert title_column(types) == title


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["Comedy Drama", "Drama  Drama", ""], [["Comedy", "Drama"], ["Drama"], []]),
        (["Tools, Hand Saws", "Tools"], [["Tools", "Hand Saws"], ["Tools"]]),
        (["a b|c, d", "e|a b"], [["a b", "c, d"], ["e", "a b"]]),
        (["", " "], [[], []]),
    ],
)
def test_words_are_split_at_the_usual_separator(values: list[str], words: list[list[str]]) -> None:
    assert split_words(values) == words


def test_the_words_are_those_of_the_column_with_the_fewest() -> None:
    frame = pd.DataFrame(
        {
            "title": ["same"] * 8,
            "director": [f"name{i}" for i in range(8)],
            "genre": ["Drama", "War"] * 4,
            "kind": ["x"] * 8,
            "empty": [""] * 8,
        }
    )
    types = dict.fromkeys(frame, "token_seq") | {"kind": "token"}
    assert words_column(frame, types, "title") == "genre"
    assert words_column(frame[["title", "director"]], {"director": "token_seq"}, "title") is None


def test_cards_are_in_the_order_of_the_ids(rule_folder: Path) -> None:
    genres = ["Drama", "War", "Drama War"]
    lines = [f"i{i}\tThe {i}th\t{genres[i % 3]}" for i in range(29, 0, -1)] + ["i0\t \t"]
    write_items(rule_folder, ["item_id:token\ttitle:token_seq\tgenre:token_seq", *lines])
    cards = cards_of(rule_folder)
    assert (cards.title_column, cards.words_column) == ("title", "genre")
    by_token = {t: i for i, t in enumerate(cards.tokens)}
    assert set(by_token) == {f"i{i}" for i in range(30)}
    assert cards.titles[by_token["i7"]] == "The 7th" and cards.titles[by_token["i0"]] == "i0"
    assert cards.words[by_token["i5"]] == ["Drama", "War"] and cards.words[by_token["i0"]] == []
    assert cards.posters == [""] * 30
    # 40 users of 6 to 14 items, the last two held out, a user's first one not counted.
    assert sum(cards.popularity) == sum(6 + u % 9 - 3 for u in range(40))


def test_the_first_row_of_an_item_is_its_card(rule_folder: Path) -> None:
    lines = [f"i{i}\tTitle {i}" for i in range(30)] + [f"i{i}\t" for i in range(30)]
    write_items(rule_folder, ["item_id:token\ttitle:token_seq", *lines])
    cards = cards_of(rule_folder)
    assert cards.titles == [f"Title {token[1:]}" for token in cards.tokens]


def test_columns_can_be_named(rule_folder: Path) -> None:
    write_items(rule_folder, ["item_id:token\ttitle:token_seq\tyear:token", "i3\tToy\t1995"])
    cards = cards_of(rule_folder, codes_title_column="year", codes_words_column="title")
    at = cards.tokens.index("i3")
    assert cards.titles[at] == "1995" and cards.words[at] == ["Toy"]
    with pytest.raises(ValueError, match=r"codes_words_column \(genre\) is not a column.*year"):
        cards_of(rule_folder, codes_words_column="genre")


def test_without_an_item_file_the_token_is_the_title(rule_folder: Path) -> None:
    (rule_folder / "data" / "rule" / "rule.item").unlink()
    cards = cards_of(rule_folder)
    assert cards.titles == cards.tokens and cards.title_column is None
    assert not any(cards.words)


def test_posters_are_small(rule_folder: Path) -> None:
    images = rule_folder / "data" / "rule" / "images"
    images.mkdir()
    Image.new("RGB", (300, 600), "red").save(images / "i4.png")
    (images / "i5.jpg").write_bytes(b"")
    cards = cards_of(rule_folder)
    assert [t for t, p in zip(cards.tokens, cards.posters, strict=True) if p] == ["i4"]
    poster = base64.b64decode(cards.posters[cards.tokens.index("i4")])
    with Image.open(io.BytesIO(poster)) as small:
        assert (small.format, small.size) == ("JPEG", (32, 64))
    wide = thumbnail(Image.new("RGB", (600, 100)))
    with Image.open(io.BytesIO(base64.b64decode(wide))) as small:
        assert small.size == (128, 21)


def test_images_of_other_items_do_not_stop_a_run_that_only_shows_them(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = rule_folder / "data" / "rule" / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "cover.png")
    assert not any(cards_of(rule_folder).posters)
    assert "No posters are shown" in caplog.text
    with pytest.raises(ValueError, match="none is named after an item"):
        cards_of(rule_folder, image_dir=str(images))
