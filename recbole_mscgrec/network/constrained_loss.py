"""The constrained softmax (paper: constrained sequence learning), which runs only over the
codewords that lead to real items. It depends on the prefix tree, not on the network."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from recbole_mscgrec.network.unpad import packs
from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor


class TargetPaths:
    """n target items as paths through the prefix tree, sorted by the number of levels they need,
    in descending order.

    With the constraint, a level whose node has a single child adds exactly zero to the
    log-probability, so the levels after the last choice are not needed. Where tokens are not packed
    (see `packs`), all levels are computed for all targets, and the targets are not sorted.

    Args:
        tree: the prefix tree.
        items: (n,) item ids; 0 stands for no target, and its log-probabilities are 0.
        constrained: softmax over the children of the target's prefix; if False, over all codewords.

    Attributes:
        order: (n,) the positions of the sorted targets in `items`.
        counts: level l is needed by the first `counts[l]` targets. The list ends before the first
            level that no target needs.
        codes: for each level, the codes (n,) of the sorted targets.
    """

    def __init__(self, tree: PrefixTree, items: Tensor, constrained: bool = True) -> None:
        self.tree, self.constrained = tree, constrained
        self.real, self.packed = items != 0, packs(items)
        path = torch.stack(tree.path(items)).clamp(min=0)  # (L+1, n); id 0 gets the first leaf
        if self.packed:
            self._sort(path)
        else:
            levels = tree.last_choice + 1 if constrained else tree.n_levels
            self.order = torch.arange(len(items), device=items.device)
            self.counts, self._path = [len(items)] * levels, path
        self.codes = [
            code[node].long() for code, node in zip(tree.code, self._path[1:], strict=True)
        ]

    def _sort(self, path: Tensor) -> None:
        """Sort the targets, with paths (L+1, n), by the number of levels they need."""
        tree = self.tree
        n_children = torch.stack(
            [tree.n_children(level, path[level]) for level in range(tree.n_levels)]
        )
        needed = (n_children > 1 if self.constrained else n_children > 0) & self.real
        levels = torch.arange(1, tree.n_levels + 1)[:, None]
        depth = (needed * levels).amax(0)
        self.order = depth.argsort(descending=True)
        counts = [int((depth > level).sum()) for level in range(tree.n_levels)]
        self.counts = [n for n in counts if n > 0]
        self._path, self._n_children = path[:, self.order], n_children[:, self.order]

    def prefixes(self, level: int) -> Tensor:
        """The nodes before a level, for the `counts[level]` targets that need it."""
        return self._path[level, : self.counts[level]]

    def log_probs(self, level: int, logits: Tensor, prior: ItemPrior | None = None) -> Tensor:
        """The log-probability of a level for the targets that need it, (counts[level],), from the
        scores of its codewords, (counts[level], K). An optional prior, with one row for each of
        these targets, is combined with the scores; it needs the constraint."""
        nodes = self.prefixes(level)
        gold = self.codes[level][: len(nodes)]
        if self.constrained:
            width = int(self._n_children[level, : len(nodes)].max()) if self.packed else None
            children = self.tree.children(level, nodes, width)
            logits = logits.gather(1, children.codes)
            if prior is not None:
                logits = prior.mixed(level, logits, children)
            logits = logits.masked_fill(~children.valid, -torch.inf)
            gold = (self._path[level + 1, : len(nodes)] - children.nodes[:, 0]).long()
        log_probs = -cross_entropy(logits, gold, reduction="none")
        return log_probs if self.packed else log_probs.masked_fill(~self.real, 0)
