"""Residual quantization where the right codes are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import in_processes

from recbole_mscgrec.semantic_ids import residual_kmeans
from recbole_mscgrec.semantic_ids.precision import matmul_precision
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer, k_means, nearest
from recbole_mscgrec.storage import processes


def two_scales(n_per_cell: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors = one of 4 far centres + one of 3 near offsets + little noise; and both labels.

    A residual quantizer must find the centres first and the offsets second.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = 100.0 * torch.eye(4, 6)
    offsets = 10.0 * torch.eye(6)[[4, 5]]
    offsets = torch.cat([offsets, -offsets.sum(0, keepdim=True)])  # their mean is zero
    first = torch.arange(4).repeat_interleave(3 * n_per_cell)
    second = torch.arange(3).repeat_interleave(n_per_cell).repeat(4)
    noise = 0.01 * torch.randn(len(first), 6, generator=generator)
    return centres[first] + offsets[second] + noise, torch.stack([first, second], dim=1)


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to the names of the groups."""
    return torch.equal(a.unsqueeze(1) == a, b.unsqueeze(1) == b)


@pytest.mark.parametrize("seed", range(5))
def test_well_separated_clusters_are_recovered_level_by_level(seed: int) -> None:
    vectors, labels = two_scales()
    codes = ResidualQuantizer([4, 3], seed=seed).fit(vectors)
    assert same_partition(codes[:, 0], labels[:, 0])
    assert same_partition(codes[:, 1], labels[:, 1])


def test_codewords_are_the_means_of_their_clusters() -> None:
    vectors, labels = two_scales()
    quantizer = ResidualQuantizer([4, 3])
    codes = quantizer.fit(vectors)
    for cluster in range(4):
        members = labels[:, 0] == cluster
        codeword = quantizer.codebooks[0][codes[members, 0][0]]
        torch.testing.assert_close(codeword, vectors[members].mean(0))
    decoded = quantizer.decode(codes)
    assert (decoded - vectors).abs().max() < 0.05


def test_encode_of_the_fitted_vectors_equals_fit() -> None:
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    quantizer = ResidualQuantizer([16, 8, 4])
    assert torch.equal(quantizer.fit(vectors), quantizer.encode(vectors))


def test_codes_fit_if_another_codeword_is_nearer_by_rounding_only() -> None:
    quantizer = ResidualQuantizer([2, 2])
    quantizer.codebooks = [torch.tensor([[0.0, 0], [2, 0]]), torch.tensor([[0.0, 0], [0, 1]])]
    vectors = torch.tensor([[1.0, 0], [1 - 1e-6, 0], [0.9, 0], [2, 0.5 + 1e-7]])
    other = torch.tensor([[1, 0], [1, 0], [1, 0], [1, 0]])
    assert quantizer.encode(vectors).tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert quantizer.fits(vectors, quantizer.encode(vectors)).all()
    assert quantizer.fits(vectors, other).tolist() == [True, True, False, True]


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    first = ResidualQuantizer([16, 8], seed=3).fit(vectors)
    torch.manual_seed(2)
    assert torch.equal(first, ResidualQuantizer([16, 8], seed=3).fit(vectors))
    assert not torch.equal(first, ResidualQuantizer([16, 8], seed=4).fit(vectors))


def test_every_level_lowers_the_error() -> None:
    vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    quantizer = ResidualQuantizer([8, 8, 8, 8])
    codes = quantizer.fit(vectors)
    left, errors = vectors, [float(vectors.square().mean())]
    for level, codebook in enumerate(quantizer.codebooks):
        left = left - codebook[codes[:, level]]
        errors.append(float(left.square().mean()))
    assert all(later < 0.95 * earlier for earlier, later in zip(errors, errors[1:], strict=False))


def test_dead_codewords_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with all codewords far from the data but one, k-means still uses every one."""
    from recbole_mscgrec.semantic_ids import residual_kmeans

    def bad_start(vectors: torch.Tensor, k: int, *_: Any) -> torch.Tensor:
        return torch.cat([vectors[:1], torch.full((k - 1, vectors.size(1)), 1e4)])

    monkeypatch.setattr(residual_kmeans, "_plus_plus", bad_start)
    vectors, labels = two_scales()
    codebook = k_means(vectors, 12, 50, torch.Generator().manual_seed(0))
    codes = nearest(vectors, codebook)[0]
    assert torch.bincount(codes, minlength=12).min() > 0
    assert codebook.abs().max() < 200


def test_as_many_codewords_as_vectors_reproduce_them() -> None:
    vectors = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualQuantizer([20])
    codes = quantizer.fit(vectors)
    assert len(set(codes.flatten().tolist())) == 20
    torch.testing.assert_close(quantizer.decode(codes), vectors)


def test_fewer_distinct_vectors_than_codewords_get_one_each() -> None:
    vectors = torch.eye(3).repeat(5, 1)
    quantizer = ResidualQuantizer([6])
    codes = quantizer.fit(vectors)
    torch.testing.assert_close(quantizer.decode(codes), vectors)


def test_nearest_by_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 5, generator=generator)
    codebook = torch.randn(7, 5, generator=generator)
    codes, distances = nearest(vectors, codebook)
    for vector, code, distance in zip(vectors, codes.tolist(), distances.tolist(), strict=True):
        by_hand = [float((vector - word).square().sum()) for word in codebook]
        assert code == by_hand.index(min(by_hand))
        assert distance == pytest.approx(min(by_hand), abs=1e-5)


def test_the_size_of_a_block_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 rows a block leave a last block of 5; without blocks the formula is one expression."""
    vectors = torch.randn(200, 24, generator=torch.Generator().manual_seed(2))
    whole = ResidualQuantizer([16, 8]).fit(vectors)
    codebook = vectors[:9]
    squared = codebook.square().sum(1) - 2 * vectors @ codebook.T
    value, code = squared.min(dim=1)
    monkeypatch.setattr(residual_kmeans, "_BLOCK_CPU", 13)
    codes, distances = nearest(vectors, codebook)
    assert torch.equal(codes, code)
    torch.testing.assert_close(distances, (value + vectors.square().sum(1)).clamp(min=0))
    assert torch.equal(ResidualQuantizer([16, 8]).fit(vectors), whole)


def test_nearest_multiplies_exactly_whatever_the_precision_of_the_run() -> None:
    """Processors differ in what they round, so the setting itself is watched."""
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
        ) -> Any:
            if "matmul" in func.__name__:
                seen.append(torch.get_float32_matmul_precision())
            return super().__torch_function__(func, types, args, kwargs or {})

    vectors = torch.randn(6, 4).as_subclass(Watched)
    with matmul_precision("medium"):
        nearest(vectors, vectors[:3])
        assert torch.get_float32_matmul_precision() == "medium"
    assert set(seen) == {"highest"}


def test_a_large_catalogue_is_fitted_on_a_sample_and_encoded_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4,000 vectors of 12 clusters, of which 240 are seen: the same clusters are found."""
    vectors, labels = two_scales(n_per_cell=334)
    fitted, lloyd = [], residual_kmeans._lloyd
    monkeypatch.setattr(
        residual_kmeans, "_lloyd", lambda v, *a: fitted.append(len(v)) or lloyd(v, *a)
    )
    monkeypatch.setattr(residual_kmeans, "_SAMPLE_ABOVE", 1000)
    monkeypatch.setattr(residual_kmeans, "_SAMPLE", 200)
    monkeypatch.setattr(residual_kmeans, "_PER_CODEWORD", 60)
    monkeypatch.setattr(residual_kmeans, "_ENCODED_AT_ONCE", 999)
    codes = ResidualQuantizer([4, 3], seed=1).fit(vectors)
    assert set(fitted) == {240} and len(codes) == len(vectors) == 4008
    assert same_partition(codes[:, 0], labels[:, 0]) and same_partition(codes[:, 1], labels[:, 1])
    assert torch.equal(codes, ResidualQuantizer([4, 3], seed=1).fit(vectors))


def test_up_to_the_stated_size_all_vectors_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    expected = ResidualQuantizer([16, 8]).fit(vectors)
    monkeypatch.setattr(residual_kmeans, "_SAMPLE_ABOVE", 300)
    monkeypatch.setattr(residual_kmeans, "_SAMPLE", 50)
    monkeypatch.setattr(residual_kmeans, "_PER_CODEWORD", 1)
    assert torch.equal(ResidualQuantizer([16, 8]).fit(vectors), expected)
    monkeypatch.setattr(residual_kmeans, "_SAMPLE_ABOVE", 299)
    assert not torch.equal(ResidualQuantizer([16, 8]).fit(vectors), expected)


def test_vectors_that_cannot_be_quantized_are_refused() -> None:
    vectors = torch.randn(10, 4)
    with pytest.raises(ValueError, match=r"codebook_size \(11\).*\(10\)"):
        ResidualQuantizer([4, 11]).fit(vectors)
    vectors[7, 2] = float("nan")
    vectors[8, 0] = float("inf")
    with pytest.raises(ValueError, match=r"2 of 10 vectors hold NaN or infinity \(first row: 7\)"):
        ResidualQuantizer([4]).fit(vectors)
    with pytest.raises(ValueError, match="All 10 vectors are equal"):
        ResidualQuantizer([4]).fit(torch.ones(10, 4))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_several_processes_find_what_one_finds(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digit. Most of 5,000 vectors lie in two places, so that codewords restart."""
    vectors = torch.randn(5000, 24, generator=torch.Generator().manual_seed(1))
    vectors[:3000] = vectors[:2].repeat(1500, 1)
    one = ResidualQuantizer([20, 10], n_iterations=8, seed=3)
    codes = one.fit(vectors)
    monkeypatch.setattr(residual_kmeans, "_SHARED_FROM", vectors.numel())

    def fitted() -> list[torch.Tensor]:
        quantizer, made = ResidualQuantizer([20, 10], n_iterations=8, seed=3), [torch.empty(0)]

        def fit() -> torch.Tensor:
            made[0] = quantizer.fit(vectors)
            return made[0]

        return [processes.once(fit), *quantizer.codebooks]

    first, *others = in_processes(n, fitted)
    assert all(map(torch.equal, first, [codes, *one.codebooks]))
    assert [len(other) for other in others] == [1] * (n - 1)


def test_each_process_computes_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(5000, 8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(residual_kmeans, "_SHARED_FROM", vectors.numel())

    def rows() -> int:
        multiplied, original = [0], torch.matmul

        def matmul(block: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            multiplied[0] += len(block)
            return original(block, *args, **kwargs)

        monkeypatch.setattr(torch, "matmul", matmul)
        ResidualQuantizer([4], n_iterations=1).fit(vectors)
        return multiplied[0] // 11  # assignments: 5 runs, their errors, and the result

    assert in_processes(2, rows) == [3072, 1928]  # of five blocks of 1,024


def test_vectors_far_from_the_origin_are_told_apart() -> None:
    """In float32, the products of vectors of length 8,000 are too coarse for their distances."""
    draw = torch.Generator().manual_seed(0)
    vectors = 0.3 * torch.randn(32, 16, generator=draw)[torch.arange(400) % 32]
    vectors += 0.01 * torch.randn(400, 16, generator=draw)
    errors = []
    for moved in (vectors, vectors + 2048):
        quantizer = ResidualQuantizer([32, 4], seed=1)
        codes = quantizer.fit(moved)
        distance = torch.cdist(moved.double(), quantizer.codebooks[0].double())
        assert (distance.argmin(1) == codes[:, 0]).all()
        assert (quantizer.encode(moved) == codes).all(1).float().mean() > 0.98  # but for rounding
        errors.append((moved.double() - quantizer.decode(codes).double()).square().sum())
    assert errors[1] < 1.1 * errors[0]
