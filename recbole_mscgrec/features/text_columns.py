"""Detects the text columns of an .item file by their names and values.

A column is text if it has a text-like name (title, name, description, plot, brand, author, genre,
class, category, ...), whatever its type, or if most of its values have several words. Ids, codes,
dates, places, prices, ratings, links and JSON are not text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

_TEXT = frozenset(
    """title name headline subtitle description desc summary plot overview synopsis abstract caption
    content text brand author artist director writer actor cast developer publisher maker store
    genre class category subcategory cat tag keyword topic feature spec""".split()
)
# A column with one of these words in its name is not text: title_id, image_caption_url.
_NO_TEXT = frozenset(
    """id ids code url uri link href picture pic image img photo thumbnail poster video cover date
    day month year time timestamp price cost rank rating score star sentiment count number num vote
    zip postal postcode latitude longitude lat lon lng address city state country phone email isbn
    asin sku ean upc entities entity embedding vector together details""".split()
)
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?$", re.IGNORECASE)
_NO_PROSE = re.compile(r"\[?\{|https?://|www\.|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b")
_QUOTES = "'\""
_BETWEEN_QUOTES = re.compile(r"['\"]\s*,\s*['\"]")
_NO_VALUE = frozenset({"nan", "null", "none", "n/a", "[]", "{}"})


def text_columns_of(frame: pd.DataFrame, types: dict[str, str], key: str) -> list[str]:
    """The names of the text columns, in the order of the file.

    Args:
        frame: the .item file as strings; '' for missing values.
        types: column -> type in the header.
        key: the column with the item tokens.
    """
    chosen: list[str] = []
    for column, kind in types.items():
        if column == key or kind not in ("token", "token_seq"):
            continue
        values = frame[column].str.strip()
        values = values[values != ""]
        if len(values) == 0 or not _is_text(column, values):
            continue
        if not any(frame[column].equals(frame[other]) for other in chosen):
            chosen.append(column)
    return chosen


def clean_text(value: str) -> str:
    """A value without the syntax of lists: `'Beauty', 'Face'` becomes `Beauty, Face`. A word for a
    missing value, such as nan, becomes ''."""
    value = value.strip()
    if value.lower() in _NO_VALUE:
        return ""
    inner = value[1:-1].strip() if value.startswith("[") and value.endswith("]") else value
    if len(inner) < 3 or inner[0] not in _QUOTES or inner[-1] not in _QUOTES:
        return value
    parts = _BETWEEN_QUOTES.split(inner[1:-1])
    if len(parts) == 1 and inner[0] != inner[-1]:
        return value
    return ", ".join(part.strip() for part in parts)


def _is_text(column: str, values: pd.Series) -> bool:
    words = _words(column)
    if words & _NO_TEXT or _share(values, _NO_PROSE.match) > 0.5:
        return False
    if _share(values, _NUMBER.match) > 0.5:
        return False
    return bool(words & _TEXT) or _share(values, lambda value: " " in value) > 0.5


def _words(name: str) -> set[str]:
    """The words of a column name, such as movieTitles or sub_categories, as they are and in the
    singular."""
    parts = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    plurals = (("", ""), ("s$", ""), ("es$", ""), ("ies$", "y"))
    return {re.sub(end, singular, part) for part in parts for end, singular in plurals} - {""}


def _share(values: pd.Series, holds: Callable[[str], object]) -> float:
    return float(values.map(lambda value: bool(holds(value))).mean())
