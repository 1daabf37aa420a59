"""Exact nearest-neighbour search among vectors, in bounded memory."""

from __future__ import annotations

import torch

from recbole_mscgrec.semantic_ids.precision import HIGHEST, matmul_precision

Tensor = torch.Tensor
_IN_ONE_PIECE = 1 << 24  # up to this many distances: 64 MB
_QUERIES, _KNOWN = 512, 1 << 13  # vectors per block: 16 MB of distances
_GROUP = 32  # distances per group; the minima of the groups are compared first


def nearest_vectors(vectors: Tensor, known: Tensor, k: int) -> Tensor:
    """Rows (n, k) of the k vectors among `known` (N, D) nearest to each of `vectors` (n, D),
    nearest first; k is at most N.

    The search is exact and takes about 100 MB for any n and N: the distances are computed in
    blocks, each of which updates the k nearest so far. Ties, including distances that differ by
    rounding only, are broken arbitrarily.
    """
    if len(vectors) * len(known) <= _IN_ONE_PIECE:
        centre = known.mean(dim=0)  # see `nearest_in_blocks`
        return torch.cdist(vectors - centre, known - centre).topk(k, largest=False).indices
    return nearest_in_blocks(vectors, known, k)[1]


def nearest_in_blocks(vectors: Tensor, known: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `nearest_vectors`, always in blocks. Returns the squared distances (n, k), then the rows.

    The mean of `known` is subtracted from all vectors: far from the origin, rounding of the
    products would hide the differences between vectors.
    """
    centre = known.mean(dim=0)
    blocks = [_of_block(block - centre, known, centre, k) for block in vectors.split(_QUERIES)]
    return torch.cat([best for best, _ in blocks]), torch.cat([rows for _, rows in blocks])


def _of_block(vectors: Tensor, known: Tensor, centre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `nearest_in_blocks`, for one block of vectors minus the centre (D,)."""
    best = vectors.new_full((len(vectors), k), torch.inf)
    rows = torch.full((len(vectors), k), -1, device=vectors.device)
    for start in range(0, len(known), _KNOWN):
        part = known[start : start + _KNOWN] - centre
        with matmul_precision(HIGHEST):  # squared distance minus |vector|^2: the same order
            distance = torch.addmm(part.square().sum(1), vectors, part.T, alpha=-2)
        value, place = _smallest(distance, min(k, len(part)))
        both = torch.cat([best, value], dim=1)
        best, chosen = both.topk(k, largest=False)
        rows = torch.cat([rows, place + start], dim=1).gather(1, chosen)
    return best + vectors.square().sum(1, keepdim=True), rows


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest values of each row of (n, m), and their columns.

    They lie in the k groups with the smallest minima. Only these groups are searched, because
    minima are computed much faster than `topk`.
    """
    n, m = values.shape
    if m % _GROUP or m // _GROUP < k:
        value, column = values.topk(k, largest=False)
        return value, column
    groups = values.view(n, _GROUP, m // _GROUP)  # number g of all groups is column g
    of_group = groups.amin(1).topk(k, largest=False).indices  # (n, k)
    inside = groups.gather(2, of_group.unsqueeze(1).expand(-1, _GROUP, -1))  # (n, _GROUP, k)
    value, place = inside.flatten(1).topk(k, largest=False)
    return value, place // k * (m // _GROUP) + of_group.gather(1, place % k)
