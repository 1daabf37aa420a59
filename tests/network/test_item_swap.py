"""Items that stand in for each other in training."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from recbole_mscgrec.network.item_swap import Neighbours
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable

# Items 1 to 9 in order of their codes: 3 5 | 1 2 4 6 7 8 | 9
CODES = [[1, 0], [1, 1], [0, 2], [1, 2], [0, 3], [1, 3], [1, 4], [1, 5], [2, 0]]
ORDER = [[3, 5], [1, 2, 4, 6, 7, 8], [9]]


def table(**modalities: list) -> CodeTable:
    padding = [[MISSING, MISSING]]
    codes = {name: torch.tensor(padding + rows) for name, rows in modalities.items()}
    return CodeTable(codes, {name: [3, 6] for name in codes}, "target")


def drawn(neighbours: Neighbours, n: int = 4000) -> list[Counter]:
    """How often each item 0 to 9 became which."""
    torch.manual_seed(0)
    items = torch.arange(10).expand(n, 10)
    return [Counter(column.tolist()) for column in neighbours(items).T]


def test_neighbours_share_the_first_codeword_and_stand_near() -> None:
    counts = drawn(Neighbours(table(target=CODES), 1.0))
    for group in ORDER:
        for place, item in enumerate(group):
            assert set(counts[item]) <= set(group)
            near = group[max(place - 5, 0) : place + 6]
            assert set(counts[item]) - {item} == set(near) - {item}
    assert set(counts[0]) == {0} and set(counts[9]) == {9}


@pytest.mark.parametrize("prob", [0.2, 0.6])
def test_items_are_replaced_at_the_stated_rate(prob: float) -> None:
    alike = [[0, code] for code in (0, 1, 2, 3, 4, 5, 5, 5, 5)]
    counts = drawn(Neighbours(table(target=alike), prob))
    assert 1 - counts[5][5] / 4000 == pytest.approx(prob, abs=0.03)  # in the middle


def test_an_item_without_the_modality_stays_half_of_the_time() -> None:
    text = [[0, 0] for _ in range(9)]
    text[4] = [MISSING, MISSING]
    counts = drawn(Neighbours(table(text=text, target=CODES), 1.0))
    # Item 5 has no text; in the other modality only item 3, before it, shares its codeword.
    assert set(counts[5]) == {3, 5} and counts[5][3] / 4000 == pytest.approx(0.25, abs=0.03)
    assert all(5 not in counts[item] for item in (1, 2, 4, 6, 7, 8, 9))
