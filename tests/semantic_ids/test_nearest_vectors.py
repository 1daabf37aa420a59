"""The search in blocks against all distances at once."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.semantic_ids import nearest_vectors as module
from recbole_mscgrec.semantic_ids.nearest_vectors import nearest_vectors

Tensor = torch.Tensor


def two_sets(n: int = 150, n_known: int = 1000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 7, generator=generator),
        torch.randn(n_known, 7, generator=generator),
    )


def by_hand(vectors: Tensor, known: Tensor, k: int) -> Tensor:
    """All distances in double precision, sorted."""
    difference = vectors.double().unsqueeze(1) - known.double()
    return difference.square().sum(2).argsort(dim=1)[:, :k]


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("block", [(64, 128), (150, 1000), (7, 30)], ids=str)
def test_blocks_find_what_all_distances_at_once_find(
    monkeypatch: pytest.MonkeyPatch, k: int, block: tuple[int, int]
) -> None:
    vectors, known = two_sets()
    expected = by_hand(vectors, known, k)
    assert torch.equal(nearest_vectors(vectors, known, k), expected)
    monkeypatch.setattr(module, "_IN_ONE_PIECE", 0)
    monkeypatch.setattr(module, "_QUERIES", block[0])
    monkeypatch.setattr(module, "_KNOWN", block[1])
    assert torch.equal(nearest_vectors(vectors, known, k), expected)


def test_a_small_search_is_one_expression_so_that_known_results_stay() -> None:
    vectors, known = two_sets()
    plain = torch.cdist(vectors - known.mean(0), known - known.mean(0))
    plain = plain.topk(5, largest=False).indices
    assert torch.equal(nearest_vectors(vectors, known, 5), plain)


@pytest.mark.parametrize("in_one_piece", [0, 1 << 24])
@pytest.mark.parametrize("scale, offset", [(1, 3000), (1e-9, 0), (1e9, 0)])
def test_vectors_of_any_scale_far_from_the_origin(
    monkeypatch: pytest.MonkeyPatch, scale: float, offset: float, in_one_piece: int
) -> None:
    monkeypatch.setattr(module, "_IN_ONE_PIECE", in_one_piece)
    known = two_sets()[1] * scale + offset
    assert torch.equal(nearest_vectors(known, known, 1)[:, 0], torch.arange(len(known)))


def test_among_equal_distances_any_row_is_taken_but_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_IN_ONE_PIECE", 0)
    monkeypatch.setattr(module, "_KNOWN", 64)
    vectors, known = two_sets(5, 40)
    found = nearest_vectors(vectors, known.repeat(8, 1), 8)
    assert torch.equal(found % 40, by_hand(vectors, known, 1).expand(-1, 8))
    assert all(len(set(row)) == 8 for row in found.tolist())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block is larger than 16 MB, where all distances would be 1.2 GB."""
    sizes, smallest = [], module._smallest

    def watched(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sizes.append(values.numel() * values.element_size())
        return smallest(values, k)

    monkeypatch.setattr(module, "_smallest", watched)
    found = nearest_vectors(torch.zeros(1000, 2), torch.zeros(300_000, 2), 3)
    assert found.shape == (1000, 3) and max(sizes) <= 1 << 24
