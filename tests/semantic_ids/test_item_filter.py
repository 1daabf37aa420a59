"""Sub-catalogues and exclusions: the best of the allowed items, by brute force."""

from __future__ import annotations

import pytest
import torch
from test_beam_search import SIZES, TableModel, catalogue

from recbole_mscgrec.network.beam_search import beam_search
from recbole_mscgrec.semantic_ids.item_filter import AllowedItems, AllowedWithout, ExcludedItems
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

N = 40


@pytest.fixture
def tree() -> PrefixTree:
    return PrefixTree(catalogue(N, seed=3), torch.arange(1, N + 1))


def search(tree: PrefixTree, restriction: object) -> tuple[list[list[int]], torch.Tensor]:
    beams = beam_search(TableModel(SIZES, 2).step, tree, 2, N, restriction)
    return beams.items.tolist(), beams.log_probs


def test_allowed_items_are_the_unrestricted_list_without_the_others(tree: PrefixTree) -> None:
    everything, log_probs = search(tree, None)
    mask = torch.zeros(2, N + 1, dtype=torch.bool)
    mask[0, ::3], mask[1, 5:9] = True, True
    restriction = AllowedItems(tree, mask)
    assert restriction.n_allowed(2).tolist() == [13, 4]  # item 0 is no item
    found, found_probs = search(tree, restriction)
    for row in range(2):
        places = [p for p, item in enumerate(everything[row]) if mask[row, item]]
        expected = [everything[row][p] for p in places]
        assert found[row] == expected + [0] * (N - len(expected))
        torch.testing.assert_close(found_probs[row, : len(places)], log_probs[row, places])


def test_one_mask_for_a_whole_batch(tree: PrefixTree) -> None:
    mask = torch.arange(N + 1) > 30
    found, _ = search(tree, AllowedItems(tree, mask))
    assert [sorted(i for i in row if i) for row in found] == [list(range(31, 41))] * 2


def test_excluded_items_with_padding_and_repetitions(tree: PrefixTree) -> None:
    everything, _ = search(tree, None)
    gone = torch.tensor([[4, 0, 4, 17], [40, 1, 2, 3]])
    restriction = ExcludedItems(tree, gone)
    assert restriction.n_allowed(2).tolist() == [N - 2, N - 4]
    found, _ = search(tree, restriction)
    for row in range(2):
        expected = [i for i in everything[row] if i not in gone[row].tolist()]
        assert [i for i in found[row] if i] == expected


def test_excluding_all_but_two_with_a_narrow_beam_still_finds_both(tree: PrefixTree) -> None:
    gone = torch.tensor([[i for i in range(1, N + 1) if i not in (7, 23)]] * 2)
    beams = beam_search(TableModel(SIZES, 2).step, tree, 2, 3, ExcludedItems(tree, gone))
    assert [sorted(row) for row in beams.items.tolist()] == [[0, 7, 23]] * 2


def test_a_sub_catalogue_without_items_of_each_request(tree: PrefixTree) -> None:
    everything, _ = search(tree, None)
    gone = torch.tensor([[4, 0, 4, 35, 36], [40, 1, 2, 3, 39]])
    shared = torch.arange(N + 1) > 30
    for mask in (shared, torch.stack([shared, torch.arange(N + 1) % 2 == 0])):
        restriction = AllowedWithout(tree, mask, gone)
        found, _ = search(tree, restriction)
        for row in range(2):
            mine = mask if mask.dim() == 1 else mask[row]
            expected = [i for i in everything[row] if mine[i] and i not in gone[row].tolist()]
            assert [i for i in found[row] if i] == expected
            assert restriction.n_allowed(2)[row] == len(expected)


def test_a_sub_catalogue_of_excluded_items_only_is_refused(tree: PrefixTree) -> None:
    mask = torch.zeros(N + 1, dtype=torch.bool)
    mask[[5, 6]] = True
    with pytest.raises(ValueError, match="1 of 2 requests allow no item.*request 1"):
        AllowedWithout(tree, mask, torch.tensor([[5, 7], [6, 5]]))


def test_what_cannot_be_asked_for_is_refused(tree: PrefixTree) -> None:
    with pytest.raises(ValueError, match=r"bool mask \(41,\).*not torch.bool \(40,\)"):
        AllowedItems(tree, torch.ones(N, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 of 2 requests allow no item.*request 1"):
        AllowedItems(tree, torch.stack([torch.ones(N + 1), torch.zeros(N + 1)]).bool())
    with pytest.raises(ValueError, match="from 0 to 40, not .* to 41"):
        ExcludedItems(tree, torch.tensor([[41]]))
    with pytest.raises(ValueError, match="allow no item"):
        ExcludedItems(tree, torch.arange(N + 1).unsqueeze(0))
