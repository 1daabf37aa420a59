"""Third stage: the kept interactions and their items as atomic files.

Values hold no tab and no line break, and nothing is quoted, as in RecBole's own files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_mscgrec.raw_data.records import BadLine, BadLines, Items, progress
from recbole_mscgrec.raw_data.spool import NONE, Spool
from recbole_mscgrec.raw_data.values import filled, seconds
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import written_whole

_BLOCK = 1 << 14  # rows


def write_interactions(
    file: Path,
    tokens_file: Path,
    spool: Spool,
    order: np.ndarray,
    has_times: bool = True,
    check_histories: bool = False,
) -> dict[str, Any]:
    """Write the .inter file, and a text file of its items with one token per line. Without times,
    the timestamp is the position in the user's sequence.

    Returns:
        First and last time in nanoseconds, and how many rows have a rating.

    Raises:
        UserError: two tokens have the same hash, or, with `check_histories`, the item before an
            interaction is not the one that its source names.
    """
    rated = _any_rating(spool, order)
    header = ["user_id:token", "item_id:token", *["rating:float"] * rated, "timestamp:float"]
    items: dict[int, bytes] = {}
    n_rated, low, high = 0, 2**63, -(2**63)
    user, position = NONE, 0
    with (
        written_whole(file, "data_path") as temporary,
        temporary.open("wb") as out,
        tqdm(total=len(order), unit=" rows", desc="Write", disable=None) as bar,
    ):
        out.write("\t".join(header).encode() + b"\n")
        for rows, texts in _checked_blocks(spool, order, items, check_histories):
            times, ratings = rows["time"].tolist(), rows["rating"].tolist()
            if not has_times:
                times, user, position = _positions(rows["user"].tolist(), user, position)
            lines = []
            for text, time, rating in zip(texts, times, ratings, strict=True):
                cells = [text]
                if rated:
                    n_rated += rating == rating
                    cells.append(b"" if rating != rating else repr(rating).encode())
                cells.append(seconds(time).encode())
                lines.append(b"\t".join(cells))
            low, high = min(low, *times), max(high, *times)
            out.write(b"\n".join(lines) + b"\n")
            bar.update(len(lines))
    with written_whole(tokens_file, "data_path") as temporary, temporary.open("wb") as out:
        out.writelines(item + b"\n" for item in items.values())
    return {"first_time": low, "last_time": high, "with_rating": n_rated}


def _positions(users: list[int], user: int, position: int) -> tuple[list[int], int, int]:
    """The position of each row in its user's sequence, as a time in nanoseconds; and the last user
    and position, with which the next block continues."""
    found = []
    for one in users:
        user, position = one, position + 1 if one == user else 1
        found.append(position * 10**9)
    return found, user, position


def _any_rating(spool: Spool, order: np.ndarray) -> bool:
    rated = ~np.isnan(spool.column("rating"))
    blocks = (order[begin : begin + _BLOCK] for begin in range(0, len(order), _BLOCK))
    return any(rated[block].any() for block in blocks)


def _checked_blocks(
    spool: Spool, order: np.ndarray, items: dict[int, bytes], check_histories: bool
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """Rows with their tokens, block by block. Fills `items`: hash -> token of every item."""
    user_before, token_before, item_before = NONE, b"", NONE
    for begin in range(0, len(order), _BLOCK):
        numbers = order[begin : begin + _BLOCK]
        rows, texts = spool.take(numbers)
        hashes = zip(rows["user"].tolist(), rows["item"].tolist(), rows["previous"], strict=True)
        for text, (user_hash, item_hash, previous) in zip(texts, hashes, strict=True):
            user, _, item = text.partition(b"\t")
            if user_hash != user_before:
                user_before, token_before, item_before = user_hash, user, NONE
            elif user != token_before:
                raise _collision(user, token_before)
            if items.setdefault(item_hash, item) != item:
                raise _collision(item, items[item_hash])
            if check_histories and previous != item_before:
                raise UserError(
                    f"The history of user {user.decode()} before item {item.decode()} does not end "
                    "with the interaction before it: a file of the split is missing or from "
                    "another version. Fetch train, valid and test again."
                )
            item_before = item_hash
        yield rows, texts


def _collision(one: bytes, other: bytes) -> UserError:
    return UserError(
        f"The ids {one.decode()} and {other.decode()} have the same 64-bit hash and would be "
        "treated as one. Rename one of them in the raw files."
    )


def write_items(
    file: Path, work: Path, tokens_file: Path, items: Items, bad: BadLines
) -> dict[str, Any]:
    """Write the .item file: all items of `tokens_file`, those without a row in the raw files last,
    with the columns that have a value. No file is written if no column has one.

    Returns:
        columns: column -> number of items that have a value; without: items without a row;
        repeated: further rows of an item, which are not used; with_text: items with a text.

    Raises:
        UserError: no item has a row.
    """
    wanted = dict.fromkeys(tokens_file.read_text(encoding="utf-8").split("\n")[:-1], True)
    n_items, counts, repeated, with_text = len(wanted), Counter[str](), 0, 0
    texts = [column for column, kind in items.columns.items() if kind == "token_seq"]
    total = sum(raw.size for raw in items.files)
    with (
        written_whole(work, "data_path") as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as out,
        tqdm(total=total, unit="B", unit_scale=True, desc="Items", disable=None) as bar,
    ):
        for raw in items.files:
            for line, record in progress(items, raw, bar):
                try:
                    if isinstance(record, BadLine):
                        raise record
                    token, values_of = items.parse(record)
                    if not wanted.get(token):
                        repeated += token in wanted
                        continue
                    values = values_of()
                except BadLine as error:
                    bad.add(raw, line, error)
                    continue
                wanted[token] = False
                counts.update(column for column, value in values.items() if value)
                with_text += any(values.get(column) for column in texts)
                out.write("\t".join([token, *filled(items.columns, values)]) + "\n")
        without = [token for token, missing in wanted.items() if missing]
        if len(without) == n_items:
            raise UserError(
                f"None of the {n_items:,} items, such as {without[0]}, has a row in "
                f"{', '.join(map(str, items.files))}: name the files of the same items and their "
                "key, or leave them out."
            )
        out.writelines("\t".join([token, *[""] * len(items.columns)]) + "\n" for token in without)
    columns = {column: counts[column] for column in items.columns}
    _copy_columns(work, file, items.columns, [n for n, c in enumerate(columns.values(), 1) if c])
    return {
        "n": n_items,
        "columns": columns,
        "without": len(without),
        "repeated": repeated,
        "with_text": with_text,
    }


def _copy_columns(work: Path, file: Path, types: dict[str, str], chosen: list[int]) -> None:
    """Copy the chosen columns, with a header. Columns without a value are of no use to RecBole."""
    if not chosen:
        return
    header = ["item_id:token", *(f"{name}:{kind}" for name, kind in types.items())]
    with (
        work.open(encoding="utf-8", newline="\n") as lines,
        written_whole(file, "data_path") as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as out,
    ):
        out.write("\t".join(header[n] for n in [0, *chosen]) + "\n")
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            out.write("\t".join(cells[n] for n in [0, *chosen]) + "\n")
