"""Item cards for the code pages: title, words such as genres, popularity, poster."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.features.images import find_images, n_workers
from recbole_mscgrec.features.text import ItemFile, read_items
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.storage.errors import UserError

_POSTER_SIZE = (128, 64)  # maximum width and height in pixels
_POSTER_QUALITY = 60
_MOST_POSTERS = 5_000  # only for the most popular items, so that a page opens quickly
_ITEMS_PER_WORD = 4  # a column of labels has at least this many items per distinct word
_SEPARATORS = ("|", ";", ",")


class Cards(NamedTuple):
    """Cards of n items (without the padding item), in the order of their ids."""

    tokens: list[str]
    titles: list[str]  # the token if an item has no title
    words: list[list[str]]  # distinct words of each item
    popularity: list[int]  # interactions in the train split, without the first one of each user
    posters: list[str]  # JPEG in base64; '' if there is none
    title_column: str | None = None
    words_column: str | None = None


def item_cards(settings: MSCGRecSettings, train: Any) -> Cards:
    """Titles, words, popularity and posters of the items of `train`.

    The columns are `codes_title_column` and `codes_words_column` or, if not set, chosen by
    `title_column` and `words_column`. Posters come from `images.find_images`, even if the image
    modality is not used.

    Raises:
        UserError: the .item file lacks a given column, or `image_dir` has no images.
    """
    tokens = [str(token) for token in train.field2id_token[train.iid_field][1:]]
    popularity = train.target_counts()[1:].tolist()
    titles = tokens
    words: list[list[str]] = [[] for _ in tokens]
    title = labels = None
    items = read_items(settings.files, train)
    types = items.types if items else {}
    pages = settings.pages
    check_columns(settings, items)
    if items:
        rows = items.frame.set_index(items.key)
        rows = rows.reindex(tokens, fill_value="").map(clean_text)
        title = pages.title_column or title_column(types)
        labels = pages.words_column or words_column(rows, types, title)
        if title:
            titles = [t.strip() or token for t, token in zip(rows[title], tokens, strict=True)]
        if labels:
            words = split_words(rows[labels].tolist())
    posters = _posters(settings, train, popularity)
    return Cards(tokens, titles, words, popularity, posters, title, labels)


def check_columns(settings: MSCGRecSettings, items: ItemFile | None) -> None:
    """Raise UserError if the .item file lacks `codes_title_column` or `codes_words_column`."""
    types, pages = items.types if items else {}, settings.pages
    named = {"codes_title_column": pages.title_column, "codes_words_column": pages.words_column}
    for key, column in named.items():
        if column is not None and column not in types:
            raise UserError(
                f"{key} ({column}) is not a column of the .item file; its columns are "
                f"{list(types)}."
            )


def title_column(types: dict[str, str]) -> str | None:
    """The first column whose name contains 'title' or 'name', else the first token_seq column."""
    named = [
        name
        for name, kind in types.items()
        if kind.startswith("token") and ("title" in name.lower() or "name" in name.lower())
    ]
    columns = [name for name, kind in types.items() if kind == "token_seq"]
    return next(iter(named + columns), None)


def words_column(rows: pd.DataFrame, types: dict[str, str], title: str | None) -> str | None:
    """The token_seq column, other than the title, with the smallest vocabulary; None if no column
    has at least four items per distinct word. Genres and categories pass this test, names and
    sentences do not."""
    found = []
    for name, kind in types.items():
        if kind == "token_seq" and name != title:
            words = [w for w in split_words(rows[name].tolist()) if w]
            n_different = len({word for item in words for word in item})
            if n_different and n_different * _ITEMS_PER_WORD <= len(words):
                found.append((n_different, name))
    return min(found)[1] if found else None


def split_words(values: list[str]) -> list[list[str]]:
    """The distinct words of each value, in order. The separator is the first of '|', ';' and ','
    that occurs in at least half of the non-empty values, else white space."""
    given = [value for value in values if value.strip()]
    usual = (s for s in _SEPARATORS if 2 * sum(s in value for value in given) >= len(given) > 0)
    separator = next(usual, None)
    parts = ([word.strip() for word in value.split(separator)] for value in values)
    return [[word for word in dict.fromkeys(item) if word] for item in parts]


def thumbnail(image: Image.Image) -> str:
    """An RGB image as a JPEG of at most 128 x 64 pixels, in base64."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail(_POSTER_SIZE)
    small.save(file, "JPEG", quality=_POSTER_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _posters(settings: MSCGRecSettings, train: Any, popularity: list[int]) -> list[str]:
    posters = [""] * len(popularity)
    try:
        images = find_images(settings.images, settings.files, settings.run, train)
    except ValueError as error:
        if settings.images.dir:
            raise
        getLogger().warning(f"No posters are shown: {error}")
        return posters
    if images is None:
        return posters
    items = (images.items - 1).tolist()
    popular = sorted(range(len(items)), key=lambda row: -popularity[items[row]])[:_MOST_POSTERS]
    with ThreadPoolExecutor(
        max(n_workers(settings.images), 1)
    ) as pool:  # Pillow decodes without the GIL
        made = pool.map(lambda row: thumbnail(images[row]), popular)
        for row, poster in zip(popular, made, strict=True):
            posters[items[row]] = poster
    return posters
