"""Item filters: sub-catalogues and exclusions on the same prefix tree.

Leaves are sorted by code, so a node of the tree is a range of leaves. A node leads to an allowed
item if its range contains an allowed leaf.
"""

from __future__ import annotations

from typing import Protocol

import torch

from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


class Restriction(Protocol):
    """The interface of item filters, as beam search uses it."""

    def leads_on(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Whether each leaf range [start, end), (P, C), holds an item that is allowed in its row
        (P,)."""

    def n_allowed(self, batch_size: int) -> Tensor:
        """Number of allowed items in each row: (B,)."""


class AllowedItems:
    """Allows only a sub-catalogue: items in stock, of one category, of one shop.

    Args:
        tree: the catalogue.
        allowed: bool over item ids, (n_ids,) for a whole batch or (B, n_ids) for each request;
            n_ids is the largest item id + 1 (RecBole's n_items).

    Raises:
        UserError: the mask has another length, or a request allows no item.
    """

    def __init__(self, tree: PrefixTree, allowed: Tensor) -> None:
        n_ids = len(tree.item_leaf)
        if allowed.dtype != torch.bool or allowed.dim() > 2 or allowed.size(-1) != n_ids:
            raise UserError(
                f"allowed must be a bool mask ({n_ids},) or (B, {n_ids}), one value per item id, "
                f"not {allowed.dtype} {tuple(allowed.shape)}."
            )
        by_leaf = allowed.to(tree.leaf_item.device)[..., tree.leaf_item]
        # (1 or B, leaves + 1): number of allowed leaves before each leaf
        self.running = torch.nn.functional.pad(by_leaf.cumsum(-1, dtype=torch.int32), (1, 0))
        self.running = self.running.view(-1, self.running.size(-1))
        _refuse_empty(self.running[:, -1])

    def n_allowed(self, batch_size: int) -> Tensor:
        """Number of allowed items in each row: (B,)."""
        return self.running[:, -1].expand(batch_size)

    def count(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Number of allowed items (P, C) in the leaf ranges [start, end), (P, C), of rows (P,)."""
        if len(self.running) == 1:
            return self.running[0][end] - self.running[0][start]
        row = row.unsqueeze(-1)
        return self.running[row, end] - self.running[row, start]

    def leads_on(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """See `Restriction`."""
        return self.count(row, start, end) > 0


class ExcludedItems:
    """Excludes items per request, for example those that the user has seen.

    Memory grows with the number of excluded items, not with the catalogue.

    Args:
        tree: the catalogue.
        items: (B, E) item ids to exclude, in any order; may repeat, and are padded with 0.

    Raises:
        UserError: an id is not in the catalogue, or a request excludes all items.
    """

    def __init__(self, tree: PrefixTree, items: Tensor) -> None:
        n_ids, n_leaves = len(tree.item_leaf), tree.n_items
        if items.dim() != 2 or int(items.min()) < 0 or int(items.max()) >= n_ids:
            raise UserError(
                f"excluded items must be ids (B, E) from 0 to {n_ids - 1}, not "
                f"{tuple(items.shape)} from {int(items.min())} to {int(items.max())}."
            )
        leaves = tree.item_leaf[items.to(tree.item_leaf.device)]
        leaves = torch.where(leaves < 0, n_leaves, leaves).sort(dim=1).values
        repeated = torch.zeros_like(leaves, dtype=torch.bool)
        repeated[:, 1:] = leaves[:, 1:] == leaves[:, :-1]
        # Padding and repetitions are placed after the last leaf, outside every range.
        self.leaves = leaves.masked_fill(repeated, n_leaves).sort(dim=1).values
        self.n_leaves = n_leaves
        _refuse_empty(self.n_allowed(len(self.leaves)))

    def n_allowed(self, batch_size: int) -> Tensor:
        """Number of allowed items in each row: (B,)."""
        return self.n_leaves - (self.leaves < self.n_leaves).sum(1)

    def count(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Number of excluded items (P, C) in the leaf ranges [start, end), (P, C), of rows (P,)."""
        leaves = self.leaves[row]  # (P, E)
        before, after = (torch.searchsorted(leaves, t.contiguous()) for t in (start, end))
        return after - before

    def leads_on(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """See `Restriction`."""
        return end - start > self.count(row, start, end)


class AllowedWithout:
    """Allows a sub-catalogue except for the items that each request excludes.

    Args:
        tree: the catalogue.
        allowed: as in AllowedItems.
        excluded: as in ExcludedItems.

    Raises:
        UserError: see both; or a request has no item left.
    """

    def __init__(self, tree: PrefixTree, allowed: Tensor, excluded: Tensor) -> None:
        self.allowed = AllowedItems(tree, allowed)
        # Exclude only allowed items: the others must not be subtracted a second time.
        mask = allowed if allowed.dim() == 1 else allowed.to(excluded.device)
        both = mask[excluded] if mask.dim() == 1 else mask.gather(1, excluded)
        self.excluded = ExcludedItems(tree, excluded.masked_fill(~both, 0))
        _refuse_empty(self.n_allowed(len(excluded)))

    def n_allowed(self, batch_size: int) -> Tensor:
        """Number of items left in each row: (B,)."""
        excluded = self.excluded.n_leaves - self.excluded.n_allowed(batch_size)
        return self.allowed.n_allowed(batch_size) - excluded

    def leads_on(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """See `Restriction`."""
        return self.allowed.count(row, start, end) > self.excluded.count(row, start, end)


def _refuse_empty(n_allowed: Tensor) -> None:
    empty = (n_allowed == 0).nonzero().flatten()
    if len(empty):
        raise UserError(
            f"{len(empty)} of {len(n_allowed)} requests allow no item (the first is request "
            f"{int(empty[0])}): widen the mask, or leave these requests out."
        )
