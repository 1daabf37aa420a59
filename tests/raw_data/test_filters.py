"""Filters against known answers and a plain re-implementation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from recbole_mscgrec.raw_data import filters
from recbole_mscgrec.raw_data.filters import Filters, codes_of, k_core, kept_rows
from recbole_mscgrec.raw_data.spool import ROW
from recbole_mscgrec.storage.errors import UserError


class Rows:
    """Rows in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self.column = rows.__getitem__


def rows_of(given: list[tuple[int, int, int, float]]) -> np.ndarray:
    """Rows of (user, item, time, rating)."""
    rows = np.zeros(len(given), dtype=ROW)
    for name, values in zip(
        ("user", "item", "time", "rating"), zip(*given, strict=True), strict=True
    ):
        rows[name] = values
    return rows


def test_k_core_of_a_small_example() -> None:
    """Item 3 has one user; without it user 2 has one item; without that user item 2 has one user;
    without that item user 1 still has two."""
    users = np.array([0, 0, 1, 1, 1, 2, 2])
    items = np.array([0, 1, 0, 1, 2, 2, 3])
    assert k_core(users, items, 2, 2).tolist() == [0, 1, 2, 3]
    assert k_core(users, items, 3, 1).tolist() == [2, 3, 4]
    assert k_core(users, items, 3, 2).tolist() == []
    assert k_core(users, items, 1, 1).tolist() == list(range(7))


@pytest.mark.parametrize("part", [7, 1 << 22])
@pytest.mark.parametrize("seed", range(8))
def test_all_filters_equal_a_plain_implementation(
    seed: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_PART", part)
    draw = np.random.default_rng(seed)
    hashes = draw.integers(1, 2**64 - 1, 30, dtype=np.uint64, endpoint=True)
    rows = np.zeros(200, dtype=ROW)
    rows["user"], rows["item"] = (
        hashes[draw.integers(0, 12, 200)],
        hashes[draw.integers(12, 30, 200)],
    )
    rows["time"], rows["rating"] = draw.integers(-5, 20, 200), draw.integers(1, 6, 200)
    rows["rating"][:5] = np.nan
    kept, steps = kept_rows(Rows(rows), Filters(2.0, "first", 4, 5))

    n = [i for i in range(200) if rows["rating"][i] >= 2]
    assert (steps[1].interactions, steps[1].users) == (len(n), len(set(rows["user"][n])))
    seen, unique = set(), []
    for i in sorted(n, key=lambda i: (rows["time"][i], i)):
        pair = rows["user"][i], rows["item"][i]
        if pair not in seen:
            unique.append(i)
        seen.add(pair)
    assert steps[2].interactions == len(unique) and steps[2].name.startswith("first")
    while True:
        of_user, of_item = Counter(rows["user"][unique]), Counter(rows["item"][unique])
        left = [
            i for i in unique if of_user[rows["user"][i]] >= 4 and of_item[rows["item"][i]] >= 5
        ]
        if len(left) == len(unique):
            break
        unique = left
    first = {
        user: min(i for i in unique if rows["user"][i] == user) for user in rows["user"][unique]
    }
    expected = sorted(unique, key=lambda i: (first[rows["user"][i]], rows["time"][i], i))
    assert kept.tolist() == expected and len(expected) > 50


def test_codes_over_the_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_PART", 2)
    hashes = np.array([2**64 - 1, 1, 2**63, 1, 2**64 - 1, 2**62], dtype=np.uint64)
    codes, n = codes_of(hashes)
    assert n == 4 and sorted(set(codes.tolist())) == [0, 1, 2, 3]
    assert codes[0] == codes[4] and codes[1] == codes[3]


def test_repeats_may_stay() -> None:
    rows = rows_of([(1, 1, 5, 1.0), (1, 1, 3, 1.0), (1, 2, 4, 1.0)])
    assert kept_rows(Rows(rows), Filters(repeats="all"))[0].tolist() == [1, 2, 0]
    assert kept_rows(Rows(rows), Filters())[0].tolist() == [1, 2]


def test_nothing_left_names_every_step() -> None:
    rows = rows_of([(1, 1, 5, 1.0), (1, 2, 3, 1.0), (2, 2, 4, 5.0)])
    with pytest.raises(UserError, match="3 after 'read'.* 0 after 'at least 3 .*Lower --min_user"):
        kept_rows(Rows(rows), Filters(min_user_interactions=3))
    with pytest.raises(UserError, match="0 after 'rating of at least 6'"):
        kept_rows(Rows(rows), Filters(min_rating=6.0))
