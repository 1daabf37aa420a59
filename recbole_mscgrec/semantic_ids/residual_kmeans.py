"""Residual quantization by k-means on the whole catalogue: one codebook per level, fitted to the
residuals of the earlier levels (paper: item tokenization). Large catalogues are sampled."""

from __future__ import annotations

from functools import partial

import torch

from recbole_mscgrec.semantic_ids.precision import HIGHEST, matmul_precision
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_RUNS = 5  # k-means runs per level, with different starts
_SAMPLE_ABOVE = 100_000  # with more vectors, a sample is fitted
_SAMPLE, _PER_CODEWORD = 50_000, 256  # its size: 50,000, or 256 per codeword if that is more
_ENCODED_AT_ONCE = 1 << 16  # vectors
_FAR = 1e4  # vectors are moved if the square of their mean is this many times their variance
_ROUNDING = 1e-5  # tolerance of a squared distance, relative to the squared lengths in it
_SHARED_FROM = 1 << 22  # numbers; with fewer, communication can take longer than it saves
# Rows per block. On a CPU a block stays in the cache; a GPU needs large blocks.
_BLOCK_CPU, _BLOCK_GPU = 1 << 10, 1 << 16


class ResidualQuantizer:
    """L codebooks of K codewords for vectors of width D.

    Args:
        codebook_sizes: K of each level.
        n_iterations: maximum number of Lloyd iterations per level; a level stops early if no code
            changes.
        seed: the result depends only on the data and this seed.
    """

    def __init__(self, codebook_sizes: list[int], n_iterations: int = 50, seed: int = 0) -> None:
        self.codebook_sizes = codebook_sizes
        self.n_iterations = n_iterations
        self.seed = seed
        self.codebooks: list[Tensor] = []  # (K, D) each

    def fit(self, vectors: Tensor) -> Tensor:
        """Learn the codebooks from vectors (N, D); returns the codes (N, L) of these vectors.

        With more than 100,000 vectors, the codebooks are fitted to a random sample: 50,000 vectors,
        or 256 per codeword if that is more. All work is done on the device of the vectors. On CPUs,
        several processes share it if N D is 4 million or more; the result is that of one process.

        Raises:
            UserError: a codebook is larger than N, a value is not finite, or all vectors are equal.
        """
        self._check(vectors)
        generator = torch.Generator().manual_seed(self.seed)
        size = max(_SAMPLE, _PER_CODEWORD * max(self.codebook_sizes))
        if len(vectors) <= max(_SAMPLE_ABOVE, size):
            return self._fit(vectors, generator)
        chosen = torch.randperm(len(vectors), generator=generator)[:size].sort().values
        self._fit(vectors[chosen.to(vectors.device)], generator)
        return self.encode(vectors)

    def _fit(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Learn the codebooks from all vectors (N, D); returns their codes (N, L)."""
        is_large = vectors.numel() >= _SHARED_FROM and vectors.device.type == "cpu"
        work = partial(self._fit_levels, vectors, generator.get_state(), is_large)
        return processes.shared(work) if is_large else work()

    def _fit_levels(self, vectors: Tensor, random_state: Tensor, is_large: bool) -> Tensor:
        generator, share = torch.Generator(), is_large and processes.count() > 1
        generator.set_state(random_state)
        residual, codes = vectors.float(), []
        self.codebooks = []
        centre = _far_centre(residual)
        residual = _moved(residual, centre)
        for size in self.codebook_sizes:
            codebook = k_means(residual, size, self.n_iterations, generator, share)
            code = nearest(residual, codebook, share)[0]
            self.codebooks.append(codebook)
            codes.append(code)
            residual = residual - codebook[code]
        self.codebooks[0] = _moved(self.codebooks[0], -centre)
        return torch.stack(codes, dim=1)

    def encode(self, vectors: Tensor) -> Tensor:
        """Codes (N, L) of vectors (N, D): greedily the nearest codeword at each level."""
        return torch.cat([self._encoded(block) for block in vectors.split(_ENCODED_AT_ONCE)])

    def _encoded(self, vectors: Tensor) -> Tensor:
        codes: list[Tensor] = []
        residual, codebooks = near_origin(vectors.float(), self.codebooks)
        for codebook in codebooks:
            codes.append(nearest(residual, codebook)[0])
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1)

    def fits(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """Whether codes (N, L) are those of vectors (N, D), up to rounding: bool (N,). On another
        device, or in another order of operations, a vector can get the other one of two codewords
        at nearly the same distance."""
        fits = torch.ones(len(vectors), dtype=torch.bool)
        doubles = [codebook.double() for codebook in self.codebooks]
        residual, codebooks = near_origin(vectors.double(), doubles)
        for book, code in zip(codebooks, codes.T, strict=True):
            scale = residual.square().sum(1) + book.square().sum(1).max()
            distance = torch.cdist(residual, book).square()
            chosen = distance.gather(1, code.unsqueeze(1)).squeeze(1)
            fits &= chosen <= distance.min(1).values + _ROUNDING * scale
            residual = residual - book[code]
        return fits

    def to(self, device: torch.device | str) -> ResidualQuantizer:
        """Move the codebooks to a device. Returns this object."""
        self.codebooks = [codebook.to(device) for codebook in self.codebooks]
        return self

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codewords of codes (N, L): the quantized vectors (N, D)."""
        return torch.stack([b[c] for b, c in zip(self.codebooks, codes.T, strict=True)]).sum(0)

    def _check(self, vectors: Tensor) -> None:
        if not torch.isfinite(vectors).all():
            rows = (~torch.isfinite(vectors).all(dim=1)).nonzero().flatten()
            raise UserError(
                f"{len(rows)} of {len(vectors)} vectors hold NaN or infinity (first row: "
                f"{int(rows[0])}): repair the vectors or leave these items out."
            )
        largest = max(self.codebook_sizes)
        if largest > len(vectors):
            raise UserError(
                f"codebook_size ({largest}) must not exceed the number of items with a vector "
                f"({len(vectors)}): lower codebook_size, or leave this modality out of "
                "`modalities`."
            )
        if len(vectors) > 1 and bool((vectors == vectors[0]).all()):
            raise UserError(
                f"All {len(vectors)} vectors are equal, so they cannot tell items apart: "
                "check where they come from, or leave this modality out of `modalities`."
            )


def near_origin(vectors: Tensor, codebooks: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Vectors (N, D) and codebooks, both moved to the origin if they are far from it. There the
    codes are the same, but products of vectors do not hide their differences by rounding."""
    centre = _far_centre(codebooks[0])
    return _moved(vectors, centre), [_moved(codebooks[0], centre), *codebooks[1:]]


def _far_centre(vectors: Tensor) -> Tensor:
    """The mean (D,) of vectors (N, D) far from the origin; zero for others."""
    variance, mean = torch.var_mean(vectors, dim=0, correction=0)
    return mean if mean.square().sum() > _FAR * variance.sum() else torch.zeros_like(mean)


def _moved(vectors: Tensor, centre: Tensor) -> Tensor:
    return vectors - centre if centre.any() else vectors  # no copy of a million vectors


def k_means(
    vectors: Tensor, k: int, n_iterations: int, generator: torch.Generator, share: bool = False
) -> Tensor:
    """Codebook (K, D) of all vectors (N, D): the best of several runs of Lloyd's algorithm.

    A single run sometimes spends most codewords on a few outliers. Choosing the run with the
    smallest squared error avoids this. With `share`, all processes must call this with the same
    arguments, and each computes the distances for its part of the vectors.
    """
    runs = [_lloyd(vectors, k, n_iterations, generator, share) for _ in range(_RUNS)]
    errors = [float(nearest(vectors, codebook, share)[1].sum()) for codebook in runs]
    best = errors.index(min(errors))
    return runs[processes.broadcast(best) if share else best]


def _lloyd(
    vectors: Tensor, k: int, n_iterations: int, generator: torch.Generator, share: bool
) -> Tensor:
    """One run from a k-means++ start.

    A codeword that loses all its items restarts at one of the vectors with the largest error, so
    every codeword is used if there are K distinct vectors.
    """
    codebook, length = _plus_plus(vectors, k, generator, share), _squared_length(vectors)
    previous: Tensor | None = None
    for _ in range(n_iterations):
        total = torch.zeros_like(codebook)
        code, distance = _assign(vectors, codebook, length, total, share)
        count = torch.bincount(code, minlength=k)
        dead = (count == 0).nonzero().flatten()
        if len(dead):
            worst = distance.topk(min(len(dead), len(distance))).indices
            code[worst] = dead[: len(worst)]
            count = torch.bincount(code, minlength=k)
            total = torch.zeros_like(codebook).index_add_(0, code, vectors)
        elif previous is not None and torch.equal(code, previous):
            break
        previous = code
        # A codeword without vectors is unchanged.
        used = count.unsqueeze(1)
        codebook = torch.where(used > 0, total / used.clamp(min=1), codebook)
    return codebook


def nearest(vectors: Tensor, codebook: Tensor, share: bool = False) -> tuple[Tensor, Tensor]:
    """Index of the nearest codeword (N,), and the squared distance to it (N,).

    Always in full precision, because rounded products confuse close codewords. For `share` see
    `k_means`.
    """
    return _assign(vectors, codebook, _squared_length(vectors), share=share)


def _assign(
    vectors: Tensor,
    codebook: Tensor,
    length: Tensor,
    total: Tensor | None = None,
    share: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `nearest`. `length` (N,) holds the squared lengths of the vectors. If `total` (K, D) is
    given, the vectors of each codeword are added to it, while their block is in the cache."""
    norms, doubled, rows = codebook.square().sum(1), 2 * codebook.T, _block_rows(vectors)
    code = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
    distance = length.clone()
    # One buffer for all blocks: newly allocated memory would have to be mapped each time.
    buffer = vectors.new_empty(min(rows, len(vectors)), len(codebook))
    for start in _own_rows(vectors, share)[::rows]:
        block = vectors[start : start + rows]
        squared = buffer[: len(block)]  # (n, K), without |vector|^2
        with matmul_precision(HIGHEST):
            torch.matmul(block, doubled, out=squared)
        value, index = torch.sub(norms, squared, out=squared).min(dim=1)
        code[start : start + rows] = index
        distance[start : start + rows] += value
        if total is not None and not share:
            total.index_add_(0, index, block)
    if share:
        processes.complete(code, rows), processes.complete(distance, rows)
        if total is not None:  # in the order of a single process, so that the sums are equal
            total.index_add_(0, code, vectors)
    return code, distance.clamp_(min=0)


def _plus_plus(vectors: Tensor, k: int, generator: torch.Generator, share: bool) -> Tensor:
    """k-means++ initialization: each next centre is drawn with a probability proportional to its
    squared distance from the centres so far."""
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    centres = [vectors[first]]
    distance = _squared_distance(vectors, centres[0], share)
    for _ in range(k - 1):
        total = distance.cumsum(0, dtype=torch.float64)
        if total[-1] > 0:
            draw = torch.rand((), generator=generator, dtype=torch.float64) * total[-1]
            index = int(torch.searchsorted(total, draw).clamp(max=len(vectors) - 1))
        else:  # fewer distinct vectors than codewords
            index = int(torch.randint(len(vectors), (1,), generator=generator))
        centres.append(vectors[index])
        distance = torch.minimum(distance, _squared_distance(vectors, centres[-1], share))
    return torch.stack(centres)


def _squared_length(vectors: Tensor) -> Tensor:
    """Squared length (N,) of each vector."""
    return _squared_distance(vectors, vectors.new_zeros(vectors.shape[1]))


def _squared_distance(vectors: Tensor, centre: Tensor, share: bool = False) -> Tensor:
    """Squared distance (N,) of each vector to one centre (D,), block by block as in `nearest`."""
    rows = _block_rows(vectors)
    distance = vectors.new_empty(len(vectors))
    buffer = vectors.new_empty(min(rows, len(vectors)), vectors.shape[1])
    for start in _own_rows(vectors, share)[::rows]:
        block = vectors[start : start + rows]
        difference = torch.sub(block, centre, out=buffer[: len(block)])
        torch.sum(difference.square_(), 1, out=distance[start : start + rows])
    return processes.complete(distance, rows) if share else distance


def _own_rows(vectors: Tensor, share: bool) -> range:
    """The rows that this process computes: whole blocks, so that each block has the same operations
    as in a single process."""
    n = len(vectors)
    return processes.part(n, _block_rows(vectors)) if share else range(n)


def _block_rows(vectors: Tensor) -> int:
    return _BLOCK_CPU if vectors.device.type == "cpu" else _BLOCK_GPU
