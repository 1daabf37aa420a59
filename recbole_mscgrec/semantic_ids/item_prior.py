"""A prior distribution over the items, which is combined with the network's at every code level."""

from __future__ import annotations

import torch

from recbole_mscgrec.semantic_ids.prefix_tree import Children, PrefixTree

Tensor = torch.Tensor
_SMALLEST = 1e-30  # smallest probability, so that its logarithm is finite


class ItemPrior:
    """Distributions over all items, one per row, and their weight.

    The probability of a node is the sum over its items, a contiguous range of leaves. So a
    distribution over items gives one over the children of every node. It is combined with the
    network's level by level: p(child) ~ network(child)^(1 - weight) * prior(child)^weight. Beam
    search then follows both.

    Args:
        tree: the prefix tree.
        probabilities: (B, N) of all items; the column of the padding item is ignored.
        weight: from 0 (the network alone) to 1 (the prior alone).
    """

    def __init__(self, tree: PrefixTree, probabilities: Tensor, weight: float) -> None:
        self.tree, self.weight = tree, weight
        self._rows = torch.arange(len(probabilities), device=probabilities.device)
        # In double precision: a node's probability is the difference of two sums.
        of_leaves = probabilities[:, tree.leaf_item.long()].double()
        self._sums = torch.nn.functional.pad(of_leaves.cumsum(1), (1, 0))  # (B, leaves + 1)

    def select(self, rows: Tensor) -> ItemPrior:
        """The prior restricted to the given rows (n,), which may repeat."""
        chosen = object.__new__(ItemPrior)
        chosen.tree, chosen.weight, chosen._sums = self.tree, self.weight, self._sums
        chosen._rows = self._rows[rows]
        return chosen

    def log_mass(self, depth: int, nodes: Tensor) -> Tensor:
        """The log-probability of C nodes of a depth in each of the P rows: (P, C)."""
        start, end = self.tree.leaves(depth, nodes)
        row = self._rows.unsqueeze(1)
        mass = self._sums[row, end.long()] - self._sums[row, start.long()]
        return mass.clamp(min=_SMALLEST).log().float()

    def mixed(self, level: int, logits: Tensor, children: Children) -> Tensor:
        """The network's scores (P, C) of the children of a node of depth `level` in each of the P
        rows, combined with the prior; the softmax is not applied yet."""
        prior = self.log_mass(level + 1, children.nodes)
        return (1 - self.weight) * logits + self.weight * prior
