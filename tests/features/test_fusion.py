"""Vectors behind the codes: comparable, side by side, mapped; what codewords stand for."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.features.fusion import comparable, side_by_side
from recbole_mscgrec.network.init import codeword_means, principal_maps
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer

Tensor = torch.Tensor


def two_modalities(n_items: int = 41) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 4.0, 1.0, 0.5, 0.1])
    wide, narrow = (torch.randn(n_items, 5, generator=generator) * spread for _ in range(2))
    present = torch.ones(n_items, dtype=torch.bool)
    return {"wide": comparable(wide, present), "narrow": comparable(narrow[:, :3], present)}


def mapped_by(maps: dict[str, Tensor], vectors: dict[str, Tensor]) -> Tensor:
    """The sum of all modalities' maps per item, about its mean."""
    total = torch.stack([v @ maps[name].T for name, v in vectors.items()]).sum(0)[1:]
    return total - total.mean(0)


def test_comparable_vectors_are_centred_and_of_unit_length_where_they_are() -> None:
    vectors = torch.tensor([[7.0, 7.0], [3.0, 1.0], [1.0, 1.0], [9.0, 9.0], [2.0, 1.0]])
    present = torch.tensor([True, True, True, False, True])  # padding never counts
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(comparable(vectors, present), expected)


def test_maps_as_wide_as_the_vectors_keep_every_angle() -> None:
    vectors = two_modalities()
    maps = principal_maps(vectors, 11)
    assert (maps["wide"].shape, maps["narrow"].shape) == ((11, 5), (11, 3))
    mapped = mapped_by(maps, vectors)
    assert (mapped[:, 8:] == 0).all()  # eight numbers have eight components
    assert float(mapped.pow(2).mean()) == pytest.approx(1, rel=1e-3)
    joint = side_by_side(vectors)[1:]
    scale = float(mapped.norm() / (joint - joint.mean(0)).norm())
    torch.testing.assert_close(
        torch.pdist(mapped), scale * torch.pdist(joint), rtol=1e-4, atol=1e-4
    )


def test_narrow_maps_keep_the_largest_components() -> None:
    vectors = two_modalities()
    maps = principal_maps(vectors, 3)
    mapped = mapped_by(maps, vectors)
    joint = side_by_side(vectors)[1:]
    largest = torch.linalg.svdvals(joint - joint.mean(0))[:3].pow(2)
    kept = mapped.pow(2).sum(0)
    torch.testing.assert_close(kept / kept.sum(), largest / largest.sum(), rtol=1e-3, atol=1e-5)
    assert float(mapped.pow(2).mean()) == pytest.approx(1, rel=1e-3)


def test_codeword_means_are_what_residual_quantization_learns() -> None:
    vectors = two_modalities(200)["wide"][1:]
    quantizer = ResidualQuantizer([4, 3])
    codes = quantizer.fit(vectors)
    means = codeword_means(vectors, codes, [4, 3])
    torch.testing.assert_close(means, torch.cat(quantizer.codebooks), rtol=1e-3, atol=1e-4)


def test_a_codeword_without_items_stands_for_nothing() -> None:
    means = codeword_means(torch.tensor([[2.0], [4.0]]), torch.tensor([[0, 0], [0, 1]]), [2, 3])
    assert means.flatten().tolist() == [3.0, 0.0, -1.0, 1.0, 0.0]
