"""Finds the columns of user, item and time in an .inter file without RecBole's default names:
RecBole's own data sets have `artist_id`, `business_id`, `product_id`, `date`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_mscgrec.storage.errors import UserError

# Setting -> usual names of this column, the most likely first.
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
        UserError: a column has no type, or the file has another encoding.
    """
    try:
        with file.open(encoding=encoding or "utf-8") as stream:
            header = stream.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not a text in {encoding or 'utf-8'} ({error.reason} at byte "
            f"{error.start}): set encoding to that of the file, such as latin-1."
        ) from error
    columns = dict(column.rpartition(":")[::2] for column in header.split(separator))
    if "" in columns:
        raise UserError(
            f"{file}: the header is {header[:200]!r}, and each of its columns must be name:type, "
            f"separated by {separator!r} (field_separator), such as item_id:token."
        )
    return columns


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
