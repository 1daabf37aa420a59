"""A self-contained page for each modality that shows the items with each code."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable
from recbole_mscgrec.storage import files
from recbole_mscgrec.tokenizer.item_cards import Cards

_MOST_ITEMS = 20_000  # only the most popular items are listed; counts and words cover all items
_WORD_LEVELS = 2  # number of levels whose groups are described by words
_LEAST_COUNT = 2  # a characteristic word occurs in at least this number of items of its group,
_LEAST_SHARE = 0.1  # in at least this share of them,
_LEAST_LIFT = 1.1  # and has at least this lift
_MOST_WORDS = 3
# Settings that a page lists: for every modality, and for single ones.
_SETTINGS = ("n_levels", "codebook_size", "seed")
_SETTINGS_OF = {
    "text": ("text_encoder", "text_columns"),
    "image": ("image_tokenizer", "image_dir"),
    "collaborative": ("collaborative_size", "collaborative_epochs"),
}


def page_data(
    table: CodeTable, health: dict[str, Any], name: str, cards: Cards, settings: dict[str, Any]
) -> dict[str, Any]:
    """The data of the page of one modality, as plain values.

    Args:
        health: the report of `code_table.health` on this modality.
        settings: the settings that the codes were made with.

    Returns:
        dataset, modality, modalities, target, health, levels, settings, title_column, words_column,
        n_items, items (by popularity: token, title, code or None, popularity, words, poster) and
        groups ('17' or '17.4' -> `describe`).
    """
    codes = codes_of(table, name)
    if "n_content_levels" not in health:  # absent in older checkpoints
        health = {**health, "n_content_levels": len(health["levels"])}
    return {
        "dataset": settings["dataset"],
        "modality": name,
        "modalities": table.modalities,
        "target": name == table.target,
        "health": health,
        "levels": levels(health),
        "settings": _settings(name, name == table.target, settings),
        "title_column": cards.title_column,
        "words_column": cards.words_column,
        "n_items": len(codes),
        "items": items_of(codes, cards)[:_MOST_ITEMS],
        "groups": groups_of(codes, cards.words, health["n_content_levels"]),
    }


def render(page: dict[str, Any]) -> str:
    """The page as a single HTML file; see `files.page_of`."""
    return files.page_of("recbole_mscgrec.tokenizer", "codes.html", page)


def codes_of(table: CodeTable, name: str) -> list[list[int] | None]:
    """The codes of all items in a modality, without the padding item; None for items without
    it."""
    return [c if c[0] != MISSING else None for c in table.codes[name][1:].tolist()]


def levels(health: dict[str, Any]) -> list[dict[str, Any]]:
    """For each level, its name and its counts from `code_table.health`."""
    n_content = health["n_content_levels"]
    return [
        {"name": f"level {i + 1}" if i < n_content else "collision", **level}
        for i, level in enumerate(health["levels"])
    ]


def items_of(codes: list[list[int] | None], cards: Cards) -> list[dict[str, Any]]:
    """One dict per item, sorted by popularity, then by token."""
    fields = ("token", "title", "words", "popularity", "poster", "code")
    columns = (cards.tokens, cards.titles, cards.words, cards.popularity, cards.posters, codes)
    items = [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]
    return sorted(items, key=lambda item: (-item["popularity"], item["token"]))


def groups_of(
    codes: list[list[int] | None], words: list[list[str]], n_content_levels: int
) -> dict[str, dict[str, Any]]:
    """Each code prefix of one or two levels ('17', '17.4') -> the result of `describe`."""
    members = defaultdict(list)
    for code, item_words in zip(codes, words, strict=True):
        if not code:
            continue
        for length in range(1, min(_WORD_LEVELS, n_content_levels) + 1):
            members[".".join(map(str, code[:length]))].append(item_words)
    catalogue = Counter(word for item in words for word in item)
    n_catalogue = sum(bool(item) for item in words)
    return {prefix: describe(m, catalogue, n_catalogue) for prefix, m in sorted(members.items())}


def describe(members: list[list[str]], catalogue: Counter, n_catalogue: int) -> dict[str, Any]:
    """Describe a group of items by its words.

    Args:
        members: the words of each item in the group.
        catalogue: word -> number of items that have it, out of the `n_catalogue` items with any
            word.

    Returns:
        A dict with these keys:

        - n: number of items.
        - characteristic: up to three [word, lift, count], sorted by lift. The lift is the share of
          the group's items that have the word, divided by its share in the catalogue. It is at
          least 1.1, and the word occurs in at least two items and a tenth of the group.
        - frequent: up to three [word, share].
        - coherence: the mean of log2(lift) over all words of the group; words that are too rare
          for `characteristic` count as 0.
    """
    count = Counter(word for item in members for word in item)
    n = sum(bool(item) for item in members)
    lifts = {w: c * n_catalogue / (n * catalogue[w]) for w, c in count.items()}
    enough = [w for w, c in count.items() if c >= max(_LEAST_COUNT, _LEAST_SHARE * n)]
    by_lift = sorted(
        (w for w in enough if lifts[w] >= _LEAST_LIFT), key=lambda w: (-lifts[w], -count[w], w)
    )
    by_count = sorted(count, key=lambda w: (-count[w], w))
    bits = sum(count[w] * math.log2(lifts[w]) for w in enough)
    return {
        "n": len(members),
        "characteristic": [[w, round(lifts[w], 2), count[w]] for w in by_lift[:_MOST_WORDS]],
        "frequent": [[w, round(count[w] / n, 3)] for w in by_count[:_MOST_WORDS]],
        "coherence": round(bits / max(sum(count.values()), 1), 3),
    }


def _settings(name: str, is_target: bool, settings: dict[str, Any]) -> dict[str, str]:
    keys = [*_SETTINGS, *_SETTINGS_OF.get(name, ()), *(["collision"] if is_target else [])]
    shown = {key: settings[key] for key in keys if settings.get(key) is not None}
    for key in ("vectors_file", "codes_file"):
        if name in (settings.get(key) or {}):
            shown[key] = settings[key][name]
    return {key: str(value) for key, value in shown.items()}
