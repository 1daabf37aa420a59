"""Requests in batches, with the items that each may be answered with."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.serving import requests
from recbole_mscgrec.serving.requests import Request, allowed_mask, batches, mixed, n_left, padded

USABLE = torch.tensor([False, True, True, True, True, False])


def test_a_mask_for_all_or_one_for_each() -> None:
    shared = [1, 2, 5]
    same = [Request([1], [], shared), Request([2], [], shared)]
    assert allowed_mask(same, USABLE).tolist() == [False, True, True, False, False, False]
    assert allowed_mask([Request([1], [], None)] * 2, USABLE) is USABLE
    masks = allowed_mask([Request([1], [], [4]), Request([1], [], None)], USABLE)
    assert masks.tolist() == [[False] * 4 + [True, False], USABLE.tolist()]


def test_items_left_are_counted_once() -> None:
    asked = [
        Request([1], [1, 1, 5], None),
        Request([1], [], None),
        Request([1], [1, 2, 3, 4], None),
    ]
    assert n_left(asked, USABLE) == [3, 4, 0]
    assert n_left(asked, torch.stack([USABLE, USABLE.logical_not(), USABLE])) == [3, 2, 0]


def test_batches_leave_out_empty_histories_and_bound_the_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [Request([1] if n % 3 else [], [], None) for n in range(9)]
    assert list(batches(asked, 6)) == [[1, 2, 4, 5, 7, 8]]
    monkeypatch.setattr(requests, "_MASK_CELLS", 12)
    own = [Request([1], [], [n]) for n in range(5)]
    assert list(batches(own, 6)) == [[0, 1], [2, 3], [4]]
    assert list(batches(own, 100)) == [[0], [1], [2], [3], [4]]


def test_padding() -> None:
    assert padded([[1], [2, 3], []]).tolist() == [[1, 0], [2, 3], [0, 0]]
    assert padded([[], []]).shape == (2, 0)


def test_mixing_keeps_the_order_and_names_no_item_twice() -> None:
    found, cold = [(1, -1.0), (2, -2.0), (3, -3.0), (4, -4.0)], [(2, -2.0), (9, -9.0)]
    assert [i for i, _ in mixed(found, cold, 4, 0.5)] == [1, 2, 3, 9]
    assert [i for i, _ in mixed(found, cold, 4, 0.25)] == [1, 2, 3, 9]
    assert [i for i, _ in mixed(found, [], 3, 1.0)] == [1, 2, 3]
    assert [i for i, _ in mixed(found, cold, 3, 0.1)] == [1, 2, 3]
