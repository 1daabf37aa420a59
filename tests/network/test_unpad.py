"""Packed tokens and the grids that they stand in."""

from __future__ import annotations

import torch

from recbole_mscgrec.network.unpad import LevelSlots, Slots


def test_tokens_stand_where_they_are_needed() -> None:
    slots = Slots.where(torch.tensor([[True, False, True], [False, False, True]]))
    tokens = torch.tensor([[1.0, 10], [2, 20], [3, 30]])
    grid = slots.spread(tokens)
    assert grid.shape == (2, 3, 2) and grid[..., 0].tolist() == [[1, 0, 2], [0, 0, 3]]
    assert torch.equal(slots.pack(grid), tokens)


def test_tokens_that_are_not_needed_are_blank_also_where_they_are_computed() -> None:
    needed = torch.tensor([[True, False, True]])
    slots, tokens = Slots(None, 1, 3, needed), torch.tensor([[1.0], [2], [3]])
    assert slots.spread(tokens).flatten().tolist() == [1, 2, 3]
    assert slots.spread_needed(tokens).flatten().tolist() == [1, 0, 3]
    packed = Slots.where(needed)
    assert packed.spread_needed(tokens[[0, 2]]).flatten().tolist() == [1, 0, 3]


def test_a_full_grid_is_not_copied() -> None:
    slots, tokens = Slots.where(torch.ones(2, 3, dtype=torch.bool)), torch.randn(6, 4)
    assert slots.spread(tokens).data_ptr() == tokens.data_ptr()
    assert slots.pack(slots.spread(tokens)).data_ptr() == tokens.data_ptr()
    assert Slots.by_row(torch.tensor([0, 0, 1, 1]), 2).index is None


def test_tokens_of_a_row_stand_one_behind_the_other() -> None:
    slots = Slots.by_row(torch.tensor([0, 2, 2, 2]), 3)
    tokens = torch.arange(1.0, 9.0).view(4, 2)
    grid = slots.spread(tokens)
    assert grid[..., 0].tolist() == [[1, 0, 0], [0, 0, 0], [3, 5, 7]]
    assert torch.equal(slots.pack(grid), tokens)


def test_levels_of_a_target_stand_side_by_side() -> None:
    slots = LevelSlots([2, 1], torch.tensor([3, 0]), (2, 2))  # targets at (1, 1) and (0, 0)
    packed = torch.tensor([[1.0], [2.0], [3.0]])
    grid = slots.spread(packed)
    assert grid.squeeze(-1).tolist() == [[2, 0, 0, 0], [0, 0, 1, 3]]
    assert torch.equal(slots.pack(grid), packed)
