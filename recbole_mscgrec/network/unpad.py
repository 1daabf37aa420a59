"""Packed tokens: only the P tokens that are needed, (P, D), each with a position in a grid of B
rows and S columns. Linear maps work on packed tokens, so they skip the padding. Attention works row
by row, on the grid.

The number of packed tokens depends on the data. Where shapes must not depend on data, `packs`
returns False, and all positions are computed.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def packs(tensor: Tensor) -> bool:
    """Whether to compute only the needed positions, on the device of this tensor.

    On a CPU this is fastest. On a GPU, the host would have to wait for the data to learn the
    shapes, and torch.compile could not make a single graph. There all positions are computed, with
    shapes that do not depend on the data, and those that are not needed are masked.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def positions(needed: Tensor) -> Tensor:
    """The positions at which a mask (n,) is True; all n positions if tokens are not packed."""
    if packs(needed):
        return needed.nonzero().flatten()
    return torch.arange(len(needed), device=needed.device)


class Slots:
    """Positions of packed tokens: `index` (P,) in the flattened (B, S), or None if the tokens fill
    the grid in order. In that case `needed` (B, S) says which of them are needed; None: all."""

    def __init__(
        self, index: Tensor | None, n_rows: int, width: int, needed: Tensor | None = None
    ) -> None:
        self.index, self.n_rows, self.width, self.needed = index, n_rows, width, needed

    @classmethod
    def where(cls, needed: Tensor) -> Slots:
        """The positions that are True in a grid (B, S), or all of them (see `packs`)."""
        n_rows, width = needed.shape
        if not packs(needed):
            return cls(None, n_rows, width, needed)
        index = positions(needed.flatten())
        return cls(None if len(index) == needed.numel() else index, n_rows, width)

    @classmethod
    def by_row(cls, row: Tensor, n_rows: int) -> Slots:
        """Token i is in row `row[i]`, (P,) ascending, after the earlier tokens of that row. S is
        the length of the longest row. If tokens are not packed, all rows have the same length."""
        if not packs(row):
            return cls(None, n_rows, len(row) // n_rows)
        count = torch.bincount(row, minlength=n_rows)
        width = int(count.max())
        rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        full = len(row) == n_rows * width
        return cls(None if full else row * width + rank, n_rows, width)

    def spread(self, tokens: Tensor) -> Tensor:
        """(P, X) -> (B, S, X); zeros where there is no token."""
        if self.index is not None:
            grid = tokens.new_zeros(self.n_rows * self.width, tokens.size(1))
            tokens = grid.index_copy(0, self.index, tokens)
        return tokens.view(self.n_rows, self.width, -1)

    def spread_needed(self, tokens: Tensor) -> Tensor:
        """As `spread`, with zeros also where a token is not needed. Attention masks such tokens,
        but other operations along a row read them, and must read the same on all devices."""
        grid = self.spread(tokens)
        return grid if self.needed is None else grid * self.needed.unsqueeze(-1).to(grid.dtype)

    def pack(self, grid: Tensor) -> Tensor:
        """The inverse of `spread`: (B, S, X) -> (P, X)."""
        tokens = grid.flatten(0, 1)
        return tokens if self.index is None else tokens.index_select(0, self.index)


class LevelSlots(Slots):
    """Positions of the levels of targets, packed level by level: a row has S = Q * levels
    positions.

    Targets are sorted by the number of levels they need, descending, so level l holds the first
    `counts[l]` of them. Levels after a target's last choice are left out.

    Args:
        counts: number of targets per level, descending; levels that no target needs are left out.
        place: (counts[0],) position of each target in the flattened (B, Q).
        shape: B rows, Q queries per row.
    """

    def __init__(self, counts: list[int], place: Tensor, shape: tuple[int, int]) -> None:
        levels = len(counts)
        index = torch.cat([place[:n] * levels + level for level, n in enumerate(counts)])
        super().__init__(index, shape[0], shape[1] * levels)
        self.counts = counts
