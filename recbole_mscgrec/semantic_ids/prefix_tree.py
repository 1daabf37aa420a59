"""Prefix tree of the codes of all items as sorted arrays (CSR). It is used by the constrained loss,
beam search, exact scoring and item filters.

Items are sorted by code, so the children of a node are a contiguous range of nodes one level below,
and its items are a contiguous range of leaves. There are no Python objects per node.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


class Children(NamedTuple):
    """Children of a batch of nodes, padded to the same number C: all tensors are (..., C)."""

    nodes: Tensor  # ids one level below; arbitrary where not valid
    codes: Tensor  # their codes, long; arbitrary where not valid
    valid: Tensor  # bool


class PrefixTree:
    """Prefix tree over N unique codes of L levels with at most K codewords each.

    The nodes of each depth are numbered from 0 in the order of their codes. The root is node 0 of
    depth 0; the leaves are the nodes of depth L. Memory: 4 bytes per inner node for its range, one
    code per node (1 byte for K <= 256), 4 bytes per leaf for its item and 4 per item for its leaf.

    Args:
        codes: (N, L) integer codes, one row per item; rows are unique.
        items: (N,) item ids of the rows; default 0..N-1. Ids may have gaps, such as the padding id
            0.

    Attributes:
        leaf_item: int32 (N,) item id of each leaf.
        item_leaf: int32 (largest id + 1,) leaf of each item id, -1 for ids without an item.
        last_choice: the last level at which a node has several children; -1 if there is none.

    Raises:
        UserError: two items share a code (the first pair is named), a code is negative, or there
            is no item.
    """

    def __init__(self, codes: Tensor, items: Tensor | None = None) -> None:
        n_items, self.n_levels = codes.shape
        if n_items == 0:
            raise UserError("A prefix tree needs at least one item.")
        if int(codes.min()) < 0:
            raise UserError(f"Codes must not be negative, but one is {int(codes.min())}.")
        self.sizes = [int(k) + 1 for k in codes.max(dim=0).values]
        order = _lexicographic_order(codes, self.sizes)
        items = torch.arange(n_items) if items is None else items.cpu()
        self.leaf_item = items[order].to(torch.int32)
        self.first: list[Tensor] = []  # depth d: (nodes of depth d + 1,) first child of each node
        self.code: list[Tensor] = []  # level l: (nodes of depth l+1,) code of each node
        self.max_children: list[int] = []
        starts = torch.zeros(n_items, dtype=torch.bool)  # rows at which a node of this depth starts
        starts[0] = True
        for level in range(self.n_levels):
            column = codes[:, level].cpu()[order]
            below = starts.clone()
            below[1:] |= column[1:] != column[:-1]
            child_of_row = below.cumsum(0, dtype=torch.int32) - 1
            first = torch.cat([child_of_row[starts], child_of_row[-1:] + 1])
            self.first.append(first)
            self.code.append(column[below].to(_code_type(self.sizes[level])))
            self.max_children.append(int((first[1:] - first[:-1]).max()))
            starts = below
        if len(self.code[-1]) != n_items:
            _name_duplicate(starts, items[order], codes[order])
        self.last_choice = max([i for i, n in enumerate(self.max_children) if n > 1], default=-1)
        self.dense = [self._dense_mask(level) for level in range(self.n_levels)]
        self.leaf_start = self._leaf_starts()
        self.item_leaf = torch.full((int(items.max()) + 1,), -1, dtype=torch.int32)
        self.item_leaf[self.leaf_item.long()] = torch.arange(n_items, dtype=torch.int32)

    def _dense_mask(self, level: int) -> Tensor | None:
        """Mask (nodes, K) of the codewords that lead to a child; None for levels where lists of
        children are faster.

        A mask is faster where nodes have many of the possible children. It is stored if it takes
        at most 4 bytes per item, or at most a megabyte.
        """
        n_nodes, size = len(self.first[level]) - 1, self.sizes[level]
        if 4 * self.max_children[level] < size or n_nodes * size > max(4 * self.n_items, 1 << 20):
            return None
        mask = torch.zeros(n_nodes, size, dtype=torch.bool)
        count = (self.first[level][1:] - self.first[level][:-1]).long()
        mask[torch.arange(n_nodes).repeat_interleave(count), self.code[level].long()] = True
        return mask

    def _leaf_starts(self) -> list[Tensor]:
        """For each depth, (nodes + 1,) the first leaf below each node. The last tensor is the one
        in `first`, not a copy."""
        starts = [self.first[-1]]
        for first in reversed(self.first[:-1]):
            starts.insert(0, starts[0][first])
        return starts

    @property
    def n_items(self) -> int:
        return len(self.leaf_item)

    @property
    def n_bytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    def _tensors(self) -> list[Tensor]:
        dense = [mask for mask in self.dense if mask is not None]
        return [
            *self.first,
            *self.code,
            self.leaf_item,
            self.item_leaf,
            *dense,
            *self.leaf_start[:-1],
        ]

    def to(self, device: torch.device | str) -> PrefixTree:
        """Move all arrays to `device`, in place."""
        self.first = [t.to(device) for t in self.first]
        self.code = [t.to(device) for t in self.code]
        self.leaf_item, self.item_leaf = self.leaf_item.to(device), self.item_leaf.to(device)
        self.dense = [None if t is None else t.to(device) for t in self.dense]
        self.leaf_start = [t.to(device) for t in self.leaf_start[:-1]] + [self.first[-1]]
        return self

    def path(self, items: Tensor) -> list[Tensor]:
        """Nodes from the root to the leaf of each item: L + 1 tensors shaped like `items`."""
        nodes = [self.item_leaf[items]]
        for first in reversed(self.first):
            # The parent is the last node whose first child does not come after this child.
            nodes.append(torch.searchsorted(first, nodes[-1], right=True, out_int32=True) - 1)
        return nodes[::-1]

    def children(self, level: int, nodes: Tensor, width: int | None = None) -> Children:
        """Children of nodes (...) of depth `level`, padded to `width` (default: the largest number
        of children at this depth)."""
        start = self.first[level][nodes]
        count = self.first[level][nodes + 1] - start
        width = self.max_children[level] if width is None else width
        slot = torch.arange(width, device=start.device, dtype=start.dtype)
        child = start.unsqueeze(-1) + slot  # (..., C)
        valid = slot < count.unsqueeze(-1)
        child = torch.where(valid, child, start.unsqueeze(-1))
        return Children(child, self.code[level][child].long(), valid)

    def n_children(self, level: int, nodes: Tensor) -> Tensor:
        """Number of children of nodes (...) of depth `level`."""
        first = self.first[level]
        return first[nodes + 1] - first[nodes]

    def nth_child(self, level: int, nodes: Tensor, n: Tensor) -> Tensor:
        """The n-th child, from 0, of each node (...) of depth `level`; the last child if there are
        fewer."""
        first = self.first[level]
        return torch.minimum(first[nodes] + n, first[nodes + 1] - 1).int()

    def child(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """The child with the given code of each node (...) of depth `level`, by binary search. If a
        node has no such child, the result is an arbitrary node of the next depth.
        """
        first, column = self.first[level], self.code[level]
        low, high = first[nodes], first[nodes + 1] - 1
        for _ in range((self.max_children[level] - 1).bit_length()):
            middle = (low + high) // 2
            below = column[middle] < codes
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
            low = torch.minimum(low, high)
        return low

    def leaves(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The ranges [start, end) of leaves below nodes (...) of `depth`."""
        if depth == self.n_levels:
            return nodes, nodes + 1
        return self.leaf_start[depth][nodes], self.leaf_start[depth][nodes + 1]


def _code_type(size: int) -> torch.dtype:
    return torch.uint8 if size <= 256 else torch.int16 if size <= 2**15 else torch.int32


def _lexicographic_order(codes: Tensor, sizes: list[int]) -> Tensor:
    """The row order that sorts codes by first level, then second, and so on. Levels are packed into
    62-bit keys, with one sort per key."""
    order: Tensor | None = None
    level = codes.size(1)
    while level > 0:
        key, span = torch.zeros(len(codes), dtype=torch.int64), 1
        while level > 0 and span * sizes[level - 1] < 2**62:
            level -= 1
            key += codes[:, level].cpu().long() * span
            span *= sizes[level]
        chosen = key if order is None else key[order]
        inner = torch.sort(chosen, stable=True).indices
        order = inner if order is None else order[inner]
    assert order is not None  # codes have at least one level
    return order


def _name_duplicate(starts: Tensor, items: Tensor, codes: Tensor) -> None:
    second = int((~starts).nonzero()[0])
    raise UserError(
        f"{int((~starts).sum())} items share their full code with another; the first two are items "
        f"{int(items[second - 1])} and {int(items[second])} with code {codes[second].tolist()}. "
        "The target modality's code must be unique: add a collision level."
    )
