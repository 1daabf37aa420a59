"""Unique codes: the extra level, and redistribution against brute force."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from recbole_mscgrec.semantic_ids import collisions
from recbole_mscgrec.semantic_ids.collisions import add_collision_level, redistribute

Tensor = torch.Tensor


def test_collision_level_numbers_the_items_that_share_a_code_by_rank() -> None:
    codes = torch.tensor([[1, 2], [0, 0], [1, 2], [1, 2], [0, 1]])
    rank = torch.tensor([5, 0, 9, 1, 0])
    unique = add_collision_level(codes, rank)
    assert unique.tolist() == [[1, 2, 1], [0, 0, 0], [1, 2, 2], [1, 2, 0], [0, 1, 0]]


def test_unique_codes_get_no_collision_level() -> None:
    codes = torch.tensor([[1, 2], [0, 0], [2, 1]])
    assert add_collision_level(codes, torch.arange(3)) is codes


def test_collision_level_where_all_items_share_one_code() -> None:
    unique = add_collision_level(torch.zeros(300, 2, dtype=torch.long), -torch.arange(300))
    assert unique[:, 2].tolist() == list(range(299, -1, -1))


def books(sizes: list[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(k, 3, generator=generator) / 2**level for level, k in enumerate(sizes)]


def nearest_codes(vectors: Tensor, codebooks: list[Tensor]) -> Tensor:
    residual, codes = vectors, []
    for book in codebooks:
        codes.append(torch.cdist(residual, book).argmin(1))
        residual = residual - book[codes[-1]]
    return torch.stack(codes, dim=1)


def total_cost(codes: Tensor, vectors: Tensor, codebooks: list[Tensor]) -> float:
    centroid = sum(book[c] for book, c in zip(codebooks, codes.T, strict=True))
    return float((vectors - centroid).square().sum())


@pytest.mark.parametrize("n_candidates", [64, 1], ids=["all leaves", "one leaf at first"])
def test_redistribution_has_the_least_total_cost(
    monkeypatch: pytest.MonkeyPatch, n_candidates: int
) -> None:
    """Against all ways to give three colliding items three different leaves."""
    monkeypatch.setattr(collisions, "_CANDIDATES", n_candidates)
    codebooks = books([2, 3])
    vectors = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    codes = torch.zeros(3, 2, dtype=torch.long)
    found = redistribute(codes, vectors, codebooks)
    leaves = torch.tensor(list(product(range(2), range(3))))
    if n_candidates == 64:
        ways = [total_cost(leaves[list(w)], vectors, codebooks) for w in permutations(range(6), 3)]
        assert total_cost(found, vectors, codebooks) == pytest.approx(min(ways), rel=1e-5)
    assert len(set(map(tuple, found.tolist()))) == 3


def test_redistribution_leaves_items_alone_that_share_nothing() -> None:
    codebooks = books([4, 4])
    vectors = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
    codes = nearest_codes(vectors, codebooks)
    found = redistribute(codes, vectors, codebooks)
    count = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    alone = count[2][count[1]] == 1
    assert 0 < int(alone.sum()) < 12
    assert torch.equal(found[alone], codes[alone])
    assert len(found.unique(dim=0)) == 12
    assert int(found.max()) < 4 and found.shape == (12, 2)


def test_redistribution_fills_a_tree_to_the_last_leaf() -> None:
    """As many leaves as items: far leaves have to be taken."""
    codebooks = books([3, 3])
    found = redistribute(torch.zeros(9, 2, dtype=torch.long), torch.randn(9, 3), codebooks)
    assert len(found.unique(dim=0)) == 9


def test_more_items_than_leaves_cannot_be_redistributed() -> None:
    with pytest.raises(
        ValueError, match=r"\[2, 2\] have 4 leaves for 5 items: raise codebook_size"
    ):
        redistribute(torch.zeros(5, 2, dtype=torch.long), torch.randn(5, 3), books([2, 2]))
