"""A learned vector per node of the prefix tree, in addition to the codeword that scores the node
(not part of the paper).

All nodes of a level with the same code share a codeword. For items that are frequent in the train
split, a vector per node can learn more than the shared codeword. Only nodes on the path to one of
the `learned_items` have a vector.
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
_DENSE = 64  # up to this number of nodes per child, one product with all nodes is faster


class NodeVectors(nn.Module):
    """Vectors of the nodes of depth 2 and more. Nodes of depth 1 need none, because each has a
    codeword of its own.

    The vectors are initialized to zero, so a node that training never sees is scored by its
    codeword alone.

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
        """The scores (P, K) of a level's codewords after nodes (P,), to which the products of the
        children's vectors with hidden states (P, D) are added. A negative number is no node.
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
        if vectors.row is not None:  # row 0 must stay zero: mask it, so that it gets no gradient
            real = real & (where != 0)
        return logits.scatter_add(1, children.codes, scores.masked_fill(~real, 0))
