"""Second stage: which interactions are kept, and in which order.

All steps work on arrays; those that sort process a part of the users at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from recbole_mscgrec.storage.errors import UserError

FIRST = "first interaction of each user with an item"  # the name of a step
_PART = 1 << 20  # rows that are sorted at a time


class Filters(NamedTuple):
    """What is dropped, in this order."""

    min_rating: float | None = None  # rows with a lower rating or without one
    repeats: str = "first"  # of the same user and item: keep the 'first' in time, or 'all'
    min_user_interactions: int = 1  # repeated with the next until both hold for all rows left
    min_item_interactions: int = 1


class Step(NamedTuple):
    """The number of interactions, users and items after a step."""

    name: str
    interactions: int
    users: int
    items: int


class Columns(Protocol):
    """The rows of the first stage, read into memory one column at a time."""

    def column(self, name: str) -> np.ndarray:
        """One column of all rows: (n,)."""


def kept_rows(rows: Columns, filters: Filters) -> tuple[np.ndarray, list[Step]]:
    """Numbers of the kept rows, and the counts after each step. Users are in the order of their
    first row, and the rows of a user in the order of time.

    Raises:
        UserError: nothing is left.
    """
    users, n_users = codes_of(rows.column("user"))
    items, _ = codes_of(rows.column("item"))
    times = rows.column("time")
    kept = _numbers(len(users))
    steps = [_step("read", users, items)]

    def keep(name: str, chosen: np.ndarray) -> None:
        nonlocal users, items, times, kept
        users, items = users[chosen], items[chosen]
        times, kept = times[chosen], kept[chosen]
        steps.append(_step(name, users, items))
        if not len(kept):
            raise UserError(_nothing_left(steps))

    if filters.min_rating is not None:
        enough = rows.column("rating") >= filters.min_rating
        keep(f"rating of at least {filters.min_rating:g}", enough)
    if filters.repeats == "first":
        first = _first_of_pairs(users, items, times, n_users)
        keep(FIRST, first)
    least = filters.min_user_interactions, filters.min_item_interactions
    if max(least) > 1:
        name = f"at least {least[0]} interactions per user and {least[1]} per item"
        keep(name, k_core(users, items, *least))
    return kept[_in_order(users, times, n_users)], steps


def k_core(
    users: np.ndarray, items: np.ndarray, min_user_interactions: int, min_item_interactions: int
) -> np.ndarray:
    """Numbers of the rows in the largest part of the data in which every user and every item has
    at least the given number of rows.

    Args:
        users: (n,) codes from 0.
        items: (n,) codes from 0.
    """
    kept = _numbers(len(users))
    while len(kept):
        of_user = np.bincount(users) >= min_user_interactions
        of_item = np.bincount(items) >= min_item_interactions
        enough = of_user[users] & of_item[items]
        if enough.all():
            break
        users, items, kept = users[enough], items[enough], kept[enough]
    return kept


def codes_of(hashes: np.ndarray) -> tuple[np.ndarray, int]:
    """A code from 0 for each hash, int32 (n,), the same for equal hashes; and the number of codes.
    It works on a range of hashes at a time, so it needs little more memory than the codes."""
    codes, n_codes = np.empty(len(hashes), dtype=np.int32), 0
    n_parts = 1 + len(hashes) // _PART
    bounds = [(part << 64) // n_parts for part in range(n_parts + 1)]
    for low, high in zip(bounds, bounds[1:], strict=False):
        inside = (hashes >= np.uint64(low)) & (hashes <= np.uint64(high - 1))
        distinct, numbers = np.unique(hashes[inside], return_inverse=True)
        codes[inside] = numbers + n_codes
        n_codes += len(distinct)
    return codes, n_codes


def _numbers(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)


def _step(name: str, users: np.ndarray, items: np.ndarray) -> Step:
    return Step(name, len(users), _n_distinct(users), _n_distinct(items))


def _n_distinct(codes: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0


def _parts(users: np.ndarray, n_users: int) -> Iterator[np.ndarray]:
    """Numbers of the rows of some users at a time, in the order of the file."""
    if len(users) <= _PART:
        yield _numbers(len(users))
        return
    ends = np.cumsum(np.bincount(users, minlength=n_users))
    low = 0
    while low < n_users:
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + _PART, side="right")))
        yield np.flatnonzero((users >= low) & (users < high))
        low = high


def _first_of_pairs(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, n_users: int
) -> np.ndarray:
    """Whether a row is the first of its user with its item, by time and then by place in the
    file."""
    first = np.zeros(len(users), dtype=bool)
    for rows in _parts(users, n_users):
        order = rows[np.lexsort((times[rows], items[rows], users[rows]))]
        new = np.ones(len(order), dtype=bool)
        u, i = users[order], items[order]
        new[1:] = (u[1:] != u[:-1]) | (i[1:] != i[:-1])
        first[order[new]] = True
    return first


def _in_order(users: np.ndarray, times: np.ndarray, n_users: int) -> np.ndarray:
    """Rows sorted by the first row of their user, then by time, then by place in the file."""
    begins = np.full(n_users, len(users), dtype=np.int64)
    begins[users[::-1]] = np.arange(len(users))[::-1]  # the last assignment to a place wins
    rank = np.empty(n_users, dtype=np.int32)
    rank[np.argsort(begins, kind="stable")] = np.arange(n_users)
    ranks = rank[users]
    order = [rows[np.lexsort((times[rows], ranks[rows]))] for rows in _parts(ranks, n_users)]
    return np.concatenate(order)


def _nothing_left(steps: list[Step]) -> str:
    told: list[Any] = [f"{step.interactions:,} after '{step.name}'" for step in steps]
    return (
        f"No interaction is left: {', '.join(told)}. Lower --min_user_interactions and "
        "--min_item_interactions, or --min_rating."
    )
