"""A distribution over items as one over the nodes of the tree, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

CODES = torch.tensor([[0, 0], [2, 1], [0, 2], [2, 0], [3, 1]])  # of the items 1 to 5
TREE = PrefixTree(CODES, torch.arange(1, 6))
P = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.0, 0.4], [0.0, 0.5, 0.5, 0.0, 0.0, 0.0]])


def test_a_node_has_the_probability_of_its_items() -> None:
    prior = ItemPrior(TREE, P, 0.5)
    first = torch.arange(3).expand(2, 3)  # codewords 0, 2 and 3
    expected = torch.tensor([[0.4, 0.2, 0.4], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(prior.log_mass(1, first).exp(), expected)
    items = torch.tensor([[4, 2], [1, 5]])
    leaves = TREE.item_leaf[items]
    found = prior.log_mass(2, leaves).exp()
    torch.testing.assert_close(found, P.gather(1, items))
    assert torch.isfinite(prior.log_mass(2, leaves)).all()  # also where it is 0


def test_rows_can_be_chosen_again_and_again() -> None:
    root = torch.zeros(3, 1, dtype=torch.int32)
    chosen = ItemPrior(TREE, P, 0.5).select(torch.tensor([1, 0, 1])).select(torch.tensor([2, 1, 1]))
    children = TREE.children(0, root[:, 0])
    found = chosen.log_mass(1, children.nodes).exp()
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.2, 0.4], [0.4, 0.2, 0.4]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_both_take_part_by_their_weights(weight: float) -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, -0.5]])
    children = TREE.children(0, torch.zeros(2, dtype=torch.int32))
    mixed = ItemPrior(TREE, P, weight).mixed(0, logits, children).softmax(1)
    masses = torch.tensor([[0.4, 0.2, 0.4], [0.5, 0.5, 1e-30]])
    by_hand = logits.exp() ** (1 - weight) * masses**weight
    torch.testing.assert_close(mixed, by_hand / by_hand.sum(1, keepdim=True))
