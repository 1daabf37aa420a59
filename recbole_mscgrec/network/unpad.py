"""Packed tokens: the P tokens that somebody needs, (P, D), each with a place in a grid of B rows of
S places. Linear maps work on packed tokens, so padding costs nothing there; attention works row by
row, on the grid."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


class Slots:
    """Where packed tokens stand: `index` (P,) in the flattened (B, S), or None where they fill the
    grid in its own order."""

    def __init__(self, index: Tensor | None, n_rows: int, width: int) -> None:
        self.index, self.n_rows, self.width = index, n_rows, width

    @classmethod
    def where(cls, needed: Tensor) -> Slots:
        """The True places of a grid (B, S)."""
        index = needed.flatten().nonzero().flatten()
        return cls(None if len(index) == needed.numel() else index, *needed.shape)

    @classmethod
    def by_row(cls, row: Tensor, n_rows: int) -> Slots:
        """Token i stands in `row[i]`, (P,) ascending, behind those before it; S is what the fullest
        row needs."""
        count = torch.bincount(row, minlength=n_rows)
        width = int(count.max())
        rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        full = len(row) == n_rows * width
        return cls(None if full else row * width + rank, n_rows, width)

    def spread(self, tokens: Tensor) -> Tensor:
        """(P, X) -> (B, S, X); zeros where no token stands."""
        if self.index is not None:
            grid = tokens.new_zeros(self.n_rows * self.width, tokens.size(1))
            tokens = grid.index_copy(0, self.index, tokens)
        return tokens.view(self.n_rows, self.width, -1)

    def pack(self, grid: Tensor) -> Tensor:
        """Undo `spread`."""
        tokens = grid.flatten(0, 1)
        return tokens if self.index is None else tokens.index_select(0, self.index)


class LevelSlots(Slots):
    """Where the levels of targets stand, packed level by level: S = Q * levels places per row.

    Targets are sorted by how many levels they need, so level l holds the first `counts[l]` of them.
    Levels at which a target's code leaves no choice are not packed.

    Args:
        counts: targets per level, descending; levels that no target needs are left out.
        place: (counts[0],) place of each target in the flattened (B, Q).
        shape: B rows, Q queries per row.
    """

    def __init__(self, counts: list[int], place: Tensor, shape: tuple[int, int]) -> None:
        levels = len(counts)
        index = torch.cat([place[:n] * levels + level for level, n in enumerate(counts)])
        super().__init__(index, shape[0], shape[1] * levels)
        self.counts = counts
