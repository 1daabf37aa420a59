"""Unique codes for items that share one (paper: extra collision level, or redistribution to empty
leaves)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_CANDIDATES = 64  # empty leaves per item that redistribution considers at first
_CHUNK = 256  # items per search


def add_collision_level(codes: Tensor, order: Tensor) -> Tensor:
    """Append a level that numbers the items that share a code, so that codes (N, L) become unique.

    Within a group, items are numbered by ascending `order` (N,). If no two items share a code, the
    codes are returned unchanged.
    """
    _, group = torch.unique(codes, dim=0, return_inverse=True)
    if int(group.max()) + 1 == len(codes):
        return codes
    # Sort by group, then by order; the number of an item is its distance from the first row of its
    # group.
    by_order = torch.argsort(order, stable=True)
    rows = by_order[torch.argsort(group[by_order], stable=True)]
    sorted_group = group[rows]
    index = torch.arange(len(rows))
    is_first = torch.ones(len(rows), dtype=torch.bool)
    is_first[1:] = sorted_group[1:] != sorted_group[:-1]
    first = torch.where(is_first, index, 0).cummax(0).values
    number = torch.empty_like(index)
    number[rows] = index - first
    return torch.cat([codes, number.unsqueeze(1)], dim=1)


def redistribute(codes: Tensor, vectors: Tensor, codebooks: list[Tensor]) -> Tensor:
    """Move items that share a code to empty leaves: unique codes (N, L) without an extra level.

    Items that share a code are matched with leaves, their own or one of the nearest empty ones, so
    that the sum of squared distances between `vectors` (N, D) and leaf centroids (sums of
    codewords) is minimal. For each item 64 empty leaves are considered, or more if these do not
    suffice; a beam search over the codebooks finds them.

    Raises:
        UserError: there are fewer leaves than items.
    """
    sizes = [len(book) for book in codebooks]
    if math.prod(sizes) < len(codes):
        raise UserError(
            f"collision=redistribute: codebooks of {sizes} have {math.prod(sizes)} leaves for "
            f"{len(codes)} items: raise codebook_size or n_levels."
        )
    key = _keys(codes, sizes)
    _, group, count = torch.unique(key, return_inverse=True, return_counts=True)
    movers = (count[group] > 1).nonzero().flatten()
    if len(movers) == 0:
        return codes
    own_cost = (vectors[movers] - _centroids(codes[movers], codebooks)).square().sum(1)
    taken, n_candidates = key.unique(), _CANDIDATES
    while True:
        leaf, cost = _nearest_empty(vectors[movers], codebooks, taken, n_candidates)
        leaf = torch.cat([key[movers].unsqueeze(1), leaf], dim=1)
        cost = torch.cat([own_cost.unsqueeze(1), cost], dim=1)
        matched = _match(leaf, cost)
        if matched is not None:
            break
        n_candidates *= 4
    result = codes.clone()
    result[movers] = _digits(matched, sizes)
    return result


def _match(leaf: Tensor, cost: Tensor) -> Tensor | None:
    """A matching of n items to distinct leaves with the least total cost; None if there is none.

    leaf (n, C) keys, -1 where an item has fewer candidates; cost (n, C).
    """
    columns, column = torch.unique(leaf, return_inverse=True)
    allowed = (leaf >= 0).numpy()
    rows = np.nonzero(allowed)[0]
    if int((columns >= 0).sum()) < len(leaf):  # else scipy would match all leaves
        return None
    # In a sparse matrix zero means 'no edge'. Adding one to all costs does not change the matching.
    weights = 1 + cost.double().numpy()[allowed]
    shape = (len(leaf), len(columns))
    try:
        graph = csr_matrix((weights, (rows, column.numpy()[allowed])), shape=shape)
        found = min_weight_full_bipartite_matching(graph)
    except ValueError:  # no full matching
        return None
    return columns[torch.from_numpy(found[1].astype(np.int64))]


def _nearest_empty(
    vectors: Tensor, codebooks: list[Tensor], taken: Tensor, n_candidates: int
) -> tuple[Tensor, Tensor]:
    """Keys (n, C) of the empty leaves nearest to each vector, and squared distances; -1 and inf
    fill up rows with fewer."""
    found = [
        _search(block, codebooks, taken, n_candidates) for block in vectors.float().split(_CHUNK)
    ]
    return torch.cat([leaf for leaf, _ in found]), torch.cat([cost for _, cost in found])


def _search(
    vectors: Tensor, codebooks: list[Tensor], taken: Tensor, n_candidates: int
) -> tuple[Tensor, Tensor]:
    residual, key = vectors.unsqueeze(1), torch.zeros(len(vectors), 1, dtype=torch.long)
    for level, book in enumerate(codebooks):
        distance = torch.cdist(residual, book.unsqueeze(0)).square()  # (n, W, K)
        keys = key.unsqueeze(-1) * len(book) + torch.arange(len(book))
        is_last = level == len(codebooks) - 1
        if is_last:
            distance = distance.masked_fill(torch.isin(keys, taken), torch.inf)
        width = min(n_candidates, distance[0].numel())
        cost, chosen = distance.flatten(1).topk(width, largest=False)
        key = keys.flatten(1).gather(1, chosen)
        if is_last:
            return key.masked_fill(cost == torch.inf, -1), cost
        parent = (chosen // len(book)).unsqueeze(-1).expand(-1, -1, residual.size(-1))
        residual = residual.gather(1, parent) - book[chosen % len(book)]
    raise UserError("redistribution needs at least one codebook.")


def _keys(codes: Tensor, sizes: list[int]) -> Tensor:
    """One number per code, (N, L) -> (N,)."""
    key = torch.zeros(len(codes), dtype=torch.long)
    for level, size in enumerate(sizes):
        key = key * size + codes[:, level]
    return key


def _digits(keys: Tensor, sizes: list[int]) -> Tensor:
    """The codes of the numbers by `_keys`."""
    digits: list[Tensor] = []
    for size in reversed(sizes):
        digits.insert(0, keys % size)
        keys = keys // size
    return torch.stack(digits, dim=1)


def _centroids(codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    return torch.stack([b[c] for b, c in zip(codebooks, codes.T, strict=True)]).sum(0)
