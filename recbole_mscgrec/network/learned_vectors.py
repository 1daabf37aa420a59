"""Embedding tables in which only some ids have a learned vector (`learned_items`; not part of the
paper)."""

from __future__ import annotations

import torch
from torch import nn

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


class LearnedVectors(nn.Embedding):
    """Vectors of size D for the ids 0..n-1, or for only some of them, which bounds the memory.

    If m ids have a vector, `weight` is (m + 1, D), in the order of the ids. Row 0 stands for all
    other ids. It is zero and is not trained.

    Args:
        n: number of ids.
        size: D.
        some: (m,) ascending ids that have a vector; None: all ids.
        padding_idx: an id whose vector stays zero, if all ids have one.

    Attributes:
        row: int32 (n,) the row of `weight` for each id. It follows from `some`, so it is not saved.
            None if all ids have a vector: the row is then the id.
    """

    row: Tensor | None

    def __init__(
        self, n: int, size: int, some: Tensor | None = None, padding_idx: int | None = None
    ) -> None:
        row = None
        if some is not None:
            row = torch.zeros(n, dtype=torch.int32)
            row[some.long()] = torch.arange(1, len(some) + 1, dtype=torch.int32)
            n, padding_idx = len(some) + 1, 0
        super().__init__(n, size, padding_idx)
        self.register_buffer("row", row, persistent=False)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows (...) of `weight` for ids (...). If only some ids have a vector, the others get
        row 0."""
        return ids if self.row is None else self.row[ids]

    def forward(self, ids: Tensor) -> Tensor:
        """(...) ids -> (..., D)."""
        return super().forward(self.rows(ids))


def checked_items(items: Tensor | None, n_items: int, source: object) -> Tensor | None:
    """The ids (m,) of the items with a learned vector, as read from a file, checked and on the CPU;
    None if the file has none.

    Args:
        n_items: N, including the padding item 0.
        source: the file, for the error.

    Raises:
        UserError: they are not ascending ids from 1 to N - 1.
    """
    if items is None:
        return None
    items = items.cpu().long()
    ascending = len(items) > 0 and bool((items.diff() > 0).all())
    if not ascending or not 0 < int(items[0]) <= int(items[-1]) < n_items:
        raise UserError(
            f"{source} is damaged: its items with a learned vector are not ascending ids from 1 to "
            f"{n_items - 1}."
        )
    return items.int()
