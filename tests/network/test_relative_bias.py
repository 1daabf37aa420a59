"""Relative position biases against their definitions."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.network.relative_bias import DistanceBias, HistoryBias, NoBias
from recbole_mscgrec.storage.errors import UserError

INF = float("inf")


def test_distance_buckets() -> None:
    bias = DistanceBias(n_buckets=8, max_distance=64, n_heads=1)
    distance = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 1000])
    expected = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 7]  # from 4 on, each twice as wide
    assert bias.bucket(distance).tolist() == expected


@pytest.mark.parametrize(
    "n_buckets, max_distance", [(1, 8), (0, 8), (8, 4), (8, 3), (9, 4), (16, 0), (4, -1)]
)
def test_buckets_that_cannot_hold_the_distances(n_buckets: int, max_distance: int) -> None:
    with pytest.raises(UserError, match=rf"n_distance_buckets \({n_buckets}\) must be at least 2"):
        DistanceBias(n_buckets, max_distance, n_heads=1)


@pytest.mark.parametrize("n_buckets", [2, 3, 8, 9, 32])
def test_buckets_grow_with_the_distance_and_end_at_the_last(n_buckets: int) -> None:
    """At the smallest max_distance allowed, and far beyond it."""
    bias = DistanceBias(n_buckets, n_buckets // 2 + 1, n_heads=1)
    buckets = bias.bucket(torch.arange(1000))
    assert buckets[0] == 0 and buckets[-1] == n_buckets - 1 and bool((buckets.diff() >= 0).all())


def test_distance_bias_is_per_head_and_hides_the_future() -> None:
    bias = DistanceBias(n_buckets=4, max_distance=8, n_heads=2)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(8.0).view(4, 2))
    found = bias(torch.tensor([[[0, -1], [1, 0]]]))  # (1, 2, 2)
    assert found.tolist() == [[[[0, -INF], [2, 0]], [[1, -INF], [3, 1]]]]


def test_bidirectional_distances_have_buckets_of_their_own() -> None:
    bias = DistanceBias(n_buckets=8, max_distance=64, n_heads=1, bidirectional=True)
    distance = torch.tensor([0, 1, 5, 1000, -1, -5, -1000])
    assert bias.bucket(distance).tolist() == [0, 1, 4, 7, 9, 12, 15]
    assert bias(distance.view(1, 1, -1)).isfinite().all()


def test_without_a_bias_only_the_future_is_hidden() -> None:
    distance = torch.tensor([[[0, -1], [1, 0]]])
    assert NoBias()(distance).tolist() == [[[[0, -INF], [0, 0]]]]


def test_history_bias_adds_item_distance_and_place_inside_the_item() -> None:
    """Two items of three codes: the bias of two tokens is that of their items plus that of their
    places, keys that stand for nothing are hidden, and so are later items."""
    item = DistanceBias(n_buckets=4, max_distance=8, n_heads=2)
    bias = HistoryBias(item, n_heads=2, per_item=3, code_bias=True)
    with torch.no_grad():
        item.weight.copy_(torch.arange(8.0).view(4, 2))
        bias.code.copy_(100 * torch.arange(18.0).view(2, 3, 3))
    keep = torch.tensor([[True, True, True, True, True, False]])
    found = bias(torch.tensor([[5, 6]]), keep)
    assert found.shape == (1, 2, 6, 6)
    for head in range(2):
        for query in range(6):
            for key in range(6):
                expected = float(item.weight[query // 3 - key // 3, head]) if query >= key else 0
                expected += float(bias.code[head, query % 3, key % 3])
                if key // 3 > query // 3 or key == 5:
                    expected = -INF
                elif key > query:  # a later code of the same item
                    expected += float(item.weight[0, head])
                assert float(found[0, head, query, key]) == expected, (head, query, key)
