"""Finds the columns of user, item and time in an .inter file without RecBole's default names:
RecBole's own data sets have `artist_id`, `business_id`, `product_id`, `date`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

from recbole_mscgrec.storage.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")
_SEPARATORS = ("\t", ",", ";", "|", " ")

# Setting -> names that such a column has, the likeliest first.
NAMES: dict[str, list[str]] = {
    "USER_ID_FIELD": (
        "user_id user userid uid member_id customer_id reviewer_id reviewerid visitor_id"
        " session_id sessionid"
    ).split(),
    "ITEM_ID_FIELD": (
        "item_id item itemid iid product_id productid movie_id movieid book_id isbn business_id"
        " artist_id track_id song_id music_id news_id article_id venue_id app_id game_id video_id"
        " recipe_id anime_id beer_id photo_id asin parent_asin id"
    ).split(),
    "TIME_FIELD": (
        "timestamp time timestamps datetime date unix_time unixreviewtime review_time reviewtime"
        " event_time created_at transaction_date item_timestamp"
    ).split(),
}


def header_of(file: Path, separator: str, encoding: str | None) -> dict[str, str]:
    """Column name -> type of an atomic file, in the order of the file.

    Raises:
        UserError: a column without a type, of an unknown type, or named twice.
    """
    columns: dict[str, str] = {}
    for column in header_cells(file, separator, encoding):
        name, _, kind = column.rpartition(":")
        if not name or ":" in name or '"' in name:
            raise _no_header(file, separator, encoding)
        if kind not in TYPES:
            raise UserError(
                f"{file}: column {name} has the type {kind!r} in the header; the types are "
                f"{', '.join(TYPES)}."
            )
        if name in columns:
            raise UserError(f"{file}: the header names column {name} twice.")
        columns[name] = kind
    return columns


def header_cells(file: Path, separator: str, encoding: str | None) -> list[str]:
    """The cells of the header line, each `name:type`, without quotes where all are quoted."""
    cells = _first_line(file, encoding).split(separator)
    if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
        return [cell[1:-1] for cell in cells]
    return cells


def codec_of(encoding: str | None) -> str:
    """Python's name of an encoding; None is UTF-8. For UTF-8 it is a codec that skips a byte order
    mark (BOM), which would become part of the first column's name."""
    try:
        name = codecs.lookup(encoding or "utf-8").name
    except LookupError as error:
        raise UserError(f"encoding ({encoding}) is not the name of an encoding.") from error
    return "utf-8-sig" if name == "utf-8" else name


def _first_line(file: Path, encoding: str | None) -> str:
    """The header line. Bytes that are invalid in this encoding are replaced: the code that reads
    the whole file reports them."""
    with file.open(encoding=codec_of(encoding), errors="replace") as stream:
        line = stream.readline().rstrip("\r\n")
    if "\0" in line:
        raise UserError(f"{file} is not {encoding or 'UTF-8'}: try --encoding=utf-16.")
    return line


def _no_header(file: Path, separator: str, encoding: str | None) -> UserError:
    """The error for a header that is not name:type in each column; names the separator that the
    file has instead, if there is one."""
    header = _first_line(file, encoding)
    for other in _SEPARATORS:
        cells = header.split(other)
        if other != separator and len(cells) > 1 and all(c.count(":") == 1 for c in cells):
            way = "leave it out" if other == "\t" else f'--field_separator="{other}" reads the file'
            return UserError(
                f"{file}: its columns are separated by {other!r} and field_separator is "
                f"{separator!r}: {way}."
            )
    return UserError(
        f"{file}: the header is {header[:200]!r}, and each of its columns must be name:type, "
        f"separated by {separator!r} (field_separator), such as item_id:token."
    )


def find_fields(columns: Sequence[str], wanted: dict[str, str]) -> dict[str, str]:
    """For each setting in `wanted` whose column is not in `columns`, the most likely other column.

    Args:
        columns: the columns of the .inter file.
        wanted: setting -> the column it names now.

    Returns:
        Setting -> column, for the settings with such a column.
    """
    by_name = {column.lower(): column for column in reversed(columns)}
    found = {}
    for setting, column in wanted.items():
        likely = [by_name[name] for name in NAMES[setting] if name in by_name]
        if column not in columns and likely:
            found[setting] = likely[0]
    return found
