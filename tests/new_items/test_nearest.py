"""Nearest known items: exact, and by groups."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.new_items import nearest
from recbole_mscgrec.new_items.nearest import nearest_known
from recbole_mscgrec.semantic_ids import nearest_vectors
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer

Tensor = torch.Tensor


def clusters(n: int, seed: int) -> Tensor:
    """Vectors around 20 centres."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.randint(20, (n,), generator=draw)
    return centres[rows] + 0.2 * torch.randn(n, 8, generator=draw)


def exact(vectors: Tensor, known: Tensor, k: int) -> Tensor:
    return torch.cdist(vectors, known.float()).topk(k, largest=False).indices


def test_the_nearest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    known, vectors = clusters(300, 1).half(), clusters(40, 2)
    found = nearest_known(vectors, known, 5, None)
    assert torch.equal(found, exact(vectors, known, 5))
    monkeypatch.setattr(nearest_vectors, "_QUERIES", 1)  # one item at a time
    assert torch.equal(nearest_known(vectors, known, 5, None), found)


def test_groups_of_the_nearest_codewords_hold_the_nearest_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nearest, "EXACT", 100)
    known, vectors = clusters(2000, 1), clusters(100, 2)
    quantizer = ResidualQuantizer([20])
    quantizer.fit(known)
    found = nearest_known(vectors, known, 5, quantizer.codebooks[0])
    assert (found == exact(vectors, known, 5)).float().mean() > 0.98
    alone = nearest_known(vectors[7:8], known, 5, quantizer.codebooks[0])
    assert torch.equal(alone, found[7:8])


def test_groups_that_are_too_small_are_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "EXACT", 2)
    monkeypatch.setattr(nearest, "_PROBED", 1)
    known = torch.tensor([[0.0], [1], [10], [11], [12], [13]])
    codebook = torch.tensor([[0.0], [12], [99]])
    found = nearest_known(torch.tensor([[0.2], [11.9], [98]]), known, 3, codebook)
    # The first group has two items and the third none: all known items are searched for these.
    assert found.tolist() == [[0, 1, 2], [4, 3, 5], [5, 4, 3]]
