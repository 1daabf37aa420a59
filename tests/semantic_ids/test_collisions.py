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


def test_redistribution_far_from_the_origin() -> None:
    """64 items in one leaf of 32 x 32 cost the same there."""
    codebooks, codes = books([32, 32]), torch.zeros(64, 2, dtype=torch.long)
    vectors = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    costs = []
    for offset in (0, 8192):
        moved, far = vectors + offset, [codebooks[0] + offset, codebooks[1]]
        costs.append(total_cost(redistribute(codes, moved, far), moved, far))
    assert costs[1] == pytest.approx(costs[0], rel=0.02)


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


def test_leaves_that_64_bits_cannot_number_are_refused() -> None:
    codes = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="more than 2.62 leaves.*lower n_levels"):
        redistribute(codes, torch.randn(2, 3), books([256] * 8))


def test_a_search_of_many_leaves_takes_fewer_items_at_once() -> None:
    wide = [torch.zeros(256, 384)] * 3
    assert collisions._rows_at_once(384, wide, 64) == 256
    assert collisions._rows_at_once(384, wide, 4096) == 10


def crowded(n: int, sizes: list[int], seed: int = 3) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Codes that many of n items share, the vectors, and the codebooks."""
    codebooks = books(sizes, seed)
    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) * 0.7
    return nearest_codes(vectors, codebooks), vectors, codebooks


def test_many_items_propose_to_leaves_and_no_pair_would_rather_have_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every leaf is considered, so the result is the stable matching."""
    monkeypatch.setattr(collisions, "_EXACT_ITEMS", 0)
    codes, vectors, codebooks = crowded(40, [5, 12])
    found = redistribute(codes, vectors, codebooks)
    assert len(found.unique(dim=0)) == 40
    groups, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)[1:]
    moved = (counts[groups] > 1).nonzero().flatten().tolist()
    assert len(moved) > 20
    mine = {i: float((vectors[i] - centroid_of(found[i], codebooks)).square().sum()) for i in moved}
    owner = {tuple(found[i].tolist()): i for i in range(40)}
    for i in moved:
        for leaf in product(range(5), range(12)):
            if leaf in {tuple(c) for c in codes.tolist()} and leaf != tuple(codes[i].tolist()):
                continue  # another item's leaf is not empty
            cost = float((vectors[i] - centroid_of(torch.tensor(leaf), codebooks)).square().sum())
            if cost < mine[i] - 1e-5:  # a nearer leaf prefers the item that it has
                assert mine[owner[leaf]] <= cost + 1e-5


def centroid_of(code: Tensor, codebooks: list[Tensor]) -> Tensor:
    return sum((b[c] for b, c in zip(codebooks, code.tolist(), strict=True)), torch.zeros(3))


def test_proposals_cost_little_more_than_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, vectors, codebooks = crowded(300, [8, 8, 8])
    exact = redistribute(codes, vectors, codebooks)
    monkeypatch.setattr(collisions, "_EXACT_ITEMS", 0)
    found = redistribute(codes, vectors, codebooks)
    assert len(found.unique(dim=0)) == len(exact.unique(dim=0)) == 300
    least = total_cost(exact, vectors, codebooks)
    assert least <= total_cost(found, vectors, codebooks) + 1e-4 < 1.5 * least


@pytest.mark.parametrize("most", [4096, 8], ids=["a wider search", "any empty leaf"])
def test_many_items_fill_a_tree_to_the_last_leaf(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(collisions, "_EXACT_ITEMS", 0)
    monkeypatch.setattr(collisions, "_CANDIDATES", 2)
    monkeypatch.setattr(collisions, "_MOST_CANDIDATES", most)
    codes, vectors, codebooks = crowded(64, [4, 4, 4])
    found = redistribute(codes, vectors, codebooks)
    assert len(found.unique(dim=0)) == 64 and int(found.max()) == 3


def test_too_many_pairs_are_left_to_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one candidate at first the matching fails; twelve items with four are too many."""
    monkeypatch.setattr(collisions, "_CANDIDATES", 1)
    monkeypatch.setattr(collisions, "_EXACT_PAIRS", 12)
    tried, match = [], collisions._match
    monkeypatch.setattr(collisions, "_match", lambda *a: tried.append(a[0].shape) or match(*a))
    found = redistribute(torch.zeros(12, 2, dtype=torch.long), torch.randn(12, 3), books([4, 4]))
    assert tried == [(12, 2)] and len(found.unique(dim=0)) == 12


def test_a_table_of_leaves_finds_what_a_list_of_taken_ones_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes, vectors, codebooks = crowded(100, [6, 6, 6])
    with_table = redistribute(codes, vectors, codebooks)
    monkeypatch.setattr(collisions, "_LISTED_LEAVES", 0)
    assert torch.equal(redistribute(codes, vectors, codebooks), with_table)
