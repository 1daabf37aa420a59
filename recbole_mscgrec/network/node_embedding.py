"""A learned vector per node of the prefix tree, in addition to the codeword that scores the node.

A codeword is shared by all nodes of its level with that code, and by their items. If items occur
often in the train split, a vector per node can learn more than the shared codeword. Nodes on the
path to one of the `learned_items` have one (not part of the paper).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.functional import embedding

from recbole_mscgrec.network.learned_vectors import LearnedVectors
from recbole_mscgrec.network.unpad import packs
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
_DENSE = 64  # up to this many nodes of a level per child, one product with all of them is faster


class NodeVectors(nn.Module):
    """Vectors of the nodes of depth 2 and more: those of depth 1 are the first codewords.

    They are initialized to zero, so a node that training never sees is scored by its codeword
    alone.

    The nodes of a depth keep their order when codes are added to the tree. So the rows of the nodes
    on the paths to given items follow from the tree and need not be saved.

    Args:
        tree: the prefix tree.
        size: D.
        items: (n,) ids of the items on whose paths the nodes have a vector; None: all.
    """

    def __init__(self, tree: PrefixTree, size: int, items: Tensor | None = None) -> None:
        super().__init__()
        self.tree = tree
        paths = None if items is None else tree.path(items.long())
        self.levels = nn.ModuleList(
            LearnedVectors(len(code), size, None if paths is None else paths[depth].unique())
            for depth, code in enumerate(tree.code[1:], start=2)
        )

    def add_to(self, logits: Tensor, level: int, hidden: Tensor, nodes: Tensor) -> Tensor:
        """Add to the scores (P, K) of a level's codewords after nodes (P,) the products of the
        children's vectors with hidden (P, D). A negative number stands for no node.
        """
        if level == 0:
            return logits
        inside = nodes.clamp(min=0)
        width = int(self.tree.n_children(level, inside).max()) if packs(inside) else None
        children = self.tree.children(level, inside, width)
        vectors, n_children = cast(LearnedVectors, self.levels[level - 1]), children.nodes.size(1)
        weight, where = vectors.weight, vectors.rows(children.nodes).long()
        if len(weight) <= _DENSE * n_children:
            scores = (hidden @ weight.T).gather(1, where)
        else:
            scores = torch.einsum("pd,pcd->pc", hidden, embedding(where, weight))
        real = children.valid & (nodes >= 0).unsqueeze(1)
        if vectors.row is not None:  # row 0 stays zero: no gradient from the product with all rows
            real = real & (where != 0)
        return logits.scatter_add(1, children.codes, scores.masked_fill(~real, 0))
