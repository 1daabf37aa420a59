"""The constrained softmax on a tree of four items, against answers by hand."""

from __future__ import annotations

import math

import torch

from recbole_mscgrec.network.constrained_loss import TargetPaths
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

# Items 1 to 4. Codeword 1 begins no item; item 4 is the only one behind codeword 3.
CODES = torch.tensor([[0, 0], [0, 2], [2, 1], [3, 2]])
TREE = PrefixTree(torch.cat([CODES, torch.tensor([[2, 0]])]), torch.arange(1, 6))
TWICE = math.log(2)


def test_a_level_without_a_choice_is_not_needed_and_sorted_last() -> None:
    targets = TargetPaths(TREE, torch.tensor([4, 2, 3]))
    assert targets.counts == [3, 2]
    assert targets.order.tolist()[-1] == 0
    assert [c.tolist()[-1] for c in targets.codes] == [3, 2]
    assert sorted(targets.prefixes(1).tolist()) == [0, 1]  # the nodes of codewords 0 and 2


def test_only_codewords_of_real_items_compete() -> None:
    targets = TargetPaths(TREE, torch.tensor([2, 4]))
    logits = torch.tensor([[TWICE, 9.0, 0.0, 0.0], [0.0, 9.0, 0.0, TWICE]])
    torch.testing.assert_close(targets.log_probs(0, logits).exp(), torch.tensor([0.5, 0.5]))
    # Below codeword 0 there are 0 and 2.
    below = targets.log_probs(1, torch.tensor([[0.0, 9.0, TWICE]])).exp()
    torch.testing.assert_close(below, torch.tensor([2 / 3]))


def test_codewords_of_no_item_get_no_gradient() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    TargetPaths(TREE, torch.tensor([1])).log_probs(0, logits).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[2 / 3, 0.0, -1 / 3, -1 / 3]]))


def test_unconstrained_every_codeword_competes_at_every_level() -> None:
    targets = TargetPaths(TREE, torch.tensor([4]), constrained=False)
    assert targets.counts == [1, 1]
    logits = torch.tensor([[0.0, TWICE, 0.0, TWICE]])
    torch.testing.assert_close(targets.log_probs(0, logits).exp(), torch.tensor([1 / 3]))


def test_a_catalogue_of_one_item_needs_no_level() -> None:
    tree = PrefixTree(torch.tensor([[2, 1]]), torch.tensor([1]))
    assert TargetPaths(tree, torch.tensor([1, 1])).counts == []
