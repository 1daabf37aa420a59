"""Makes the codes of items that share one unique (paper: by an extra collision level, or by
redistribution to empty leaves)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from recbole_mscgrec.semantic_ids.code_table import free_leaves
from recbole_mscgrec.semantic_ids.residual_kmeans import near_origin
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_CANDIDATES = 64  # empty leaves per item that redistribution considers at first
_CHUNK = 256  # items per search, at most
_NUMBERS_AT_ONCE = 1 << 26  # numbers that a search holds at once, about 256 MB
_MOST_LEAVES = 1 << 62  # keys are 64-bit integers
_EXACT_ITEMS = 20_000  # with more items to move, the matching is not optimal
_EXACT_PAIRS = 1 << 22  # nor with more pairs of an item and a leaf
_MOST_CANDIDATES = 4096  # leaves per item; if all are taken, any empty leaf is used
_LISTED_LEAVES = 1 << 28  # up to this number of leaves, a bool table says which are taken


def add_collision_level(codes: Tensor, order: Tensor) -> Tensor:
    """Make codes (N, L) unique by a further level that numbers the items with the same code.

    Items with the same code are numbered by ascending `order` (N,). If no two items share a code,
    the codes are returned unchanged.
    """
    _, group = torch.unique(codes, dim=0, return_inverse=True)
    if int(group.max()) + 1 == len(codes):
        return codes
    # Sort by group, then by order. An item's number is its distance from the start of its group.
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

    Each item that shares a code is matched with its own leaf or with one of the nearest empty ones,
    so that the sum of squared distances between `vectors` (N, D) and leaf centroids (sums of
    codewords) is minimal. A beam search over the codebooks finds 64 empty leaves per item, or more
    if these do not suffice.

    The time of this optimal matching grows faster than the number of items. So with more than
    20,000 items to move, or if 4 million pairs do not suffice, each item proposes to its leaves,
    nearest first, and a leaf keeps the nearest of its items (deferred acceptance). The result is a
    stable matching, but the sum is not minimal. Items that find no empty leaf among 4096 get an
    arbitrary empty one.

    Args:
        codes: (N, L), which may repeat.
        vectors: (N, D), the vectors behind the codes.
        codebooks: (K_l, D) of each level.

    Raises:
        UserError: there are fewer leaves than items, or more than 2^62.
    """
    sizes = [len(book) for book in codebooks]
    if math.prod(sizes) < len(codes):
        raise UserError(
            f"collision=redistribute: codebooks of {sizes} have {math.prod(sizes)} leaves for "
            f"{len(codes)} items: raise codebook_size or n_levels."
        )
    if math.prod(sizes) > _MOST_LEAVES:
        raise UserError(
            f"collision=redistribute: codebooks of {sizes} have more than 2^62 leaves, too many to "
            "number: lower n_levels or codebook_size, or use collision=extra_level."
        )
    key = _keys(codes, sizes)
    _, group, count = torch.unique(key, return_inverse=True, return_counts=True)
    movers = (count[group] > 1).nonzero().flatten()
    if len(movers) == 0:
        return codes
    vectors, codebooks = near_origin(vectors, codebooks)
    own_cost = (vectors[movers] - _centroids(codes[movers], codebooks)).square().sum(1)
    moving = (vectors[movers], key[movers], own_cost, codebooks)
    matched = _cheapest(*moving, key.unique()) if len(movers) <= _EXACT_ITEMS else None
    if matched is None:
        matched = _by_proposals(*moving, key.unique())
    result = codes.clone()
    result[movers] = _digits(matched, sizes)
    return result


def _cheapest(
    vectors: Tensor, own: Tensor, own_cost: Tensor, codebooks: list[Tensor], taken: Tensor
) -> Tensor | None:
    """Keys (n,) of the leaves with the least total cost; None if too many pairs are needed."""
    n_candidates = _CANDIDATES
    while len(vectors) * n_candidates <= _EXACT_PAIRS:
        leaf, cost = _nearest_empty(vectors, codebooks, taken, n_candidates)
        leaf = torch.cat([own.unsqueeze(1), leaf], dim=1)
        cost = torch.cat([own_cost.unsqueeze(1), cost], dim=1)
        matched = _match(leaf, cost)
        if matched is not None:
            return matched
        n_candidates *= 4
    return None


def _by_proposals(
    vectors: Tensor, own: Tensor, own_cost: Tensor, codebooks: list[Tensor], taken: Tensor
) -> Tensor:
    """Keys (n,) of distinct leaves by deferred acceptance. The first round offers each item its own
    leaf and 64 empty ones; later rounds offer the remaining items leaves that are still empty."""
    result, n_candidates = torch.full_like(own, -1), _CANDIDATES
    left, first = torch.arange(len(vectors)), True
    while len(left) and n_candidates <= _MOST_CANDIDATES:
        leaf, cost = _nearest_empty(vectors[left], codebooks, taken, n_candidates)
        if first:  # one of the items that share a leaf keeps it
            leaf = torch.cat([own.unsqueeze(1), leaf], dim=1)
            cost = torch.cat([own_cost.unsqueeze(1), cost], dim=1)
        found = _proposals(leaf, cost)
        result[left] = found
        still, first = left[found < 0], False
        taken = torch.cat([taken, found[found >= 0]]).unique()
        if 2 * len(still) > len(left):  # most leaves nearby are taken: search more widely
            n_candidates *= 4
        left = still
    if len(left):
        sizes = [len(book) for book in codebooks]
        result[left] = _keys(free_leaves(_digits(taken, sizes), sizes, len(left)), sizes)
    return result


def _proposals(leaf: Tensor, cost: Tensor) -> Tensor:
    """The stable matching of items and leaves if both sides prefer a smaller cost. Returns keys
    (n,); -1 for an item that lost all of its leaves to other items.

    leaf (n, C) holds keys, distinct in each row; cost (n, C) is inf where an item has fewer
    candidates. Among items with the same cost, a leaf keeps the one that proposed first.
    """
    cost, order = cost.sort(dim=1, stable=True)
    keys, columns = torch.unique(leaf.gather(1, order), return_inverse=True)
    price, column = cost.numpy(), columns.numpy()
    holder, paid = np.full(len(keys), -1), np.full(len(keys), np.inf)
    place, proposing = np.zeros(len(price), dtype=np.int64), np.arange(len(price))
    while len(proposing):
        wanted = column[proposing, place[proposing]]
        offer = price[proposing, place[proposing]]
        by_leaf = np.lexsort((offer, wanted))
        at, offer, item = wanted[by_leaf], offer[by_leaf], proposing[by_leaf]
        wins = np.r_[True, at[1:] != at[:-1]] & (offer < paid[at])
        sent_away = np.r_[holder[at[wins]], item[~wins]]
        holder[at[wins]], paid[at[wins]] = item[wins], offer[wins]
        sent_away = sent_away[sent_away >= 0]
        place[sent_away] += 1
        proposing = sent_away[place[sent_away] < price.shape[1]]
    result = torch.full((len(price),), -1)
    held = torch.from_numpy(np.flatnonzero(holder >= 0))
    result[torch.from_numpy(holder)[held]] = keys[held]
    return result


def _match(leaf: Tensor, cost: Tensor) -> Tensor | None:
    """The matching of n items to distinct leaves with the least total cost; None if none exists.
    Returns keys (n,).

    leaf (n, C) holds keys, -1 where an item has fewer candidates; cost is (n, C).
    """
    columns, column = torch.unique(leaf, return_inverse=True)
    allowed = (leaf >= 0).numpy()
    rows = np.nonzero(allowed)[0]
    if int((columns >= 0).sum()) < len(leaf):  # scipy would match all leaves instead of all items
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
    """Keys (n, C) of the empty leaves nearest to each vector, and their squared distances. Rows
    with fewer leaves are padded with -1 and inf."""
    n_leaves, is_taken = math.prod(len(book) for book in codebooks), None
    if n_leaves <= _LISTED_LEAVES:
        is_taken = torch.zeros(n_leaves, dtype=torch.bool)
        is_taken[taken] = True
    found = [
        _search(block, codebooks, taken if is_taken is None else is_taken, n_candidates)
        for block in vectors.float().split(_rows_at_once(vectors.size(1), codebooks, n_candidates))
    ]
    return torch.cat([leaf for leaf, _ in found]), torch.cat([cost for _, cost in found])


def _rows_at_once(width: int, codebooks: list[Tensor], n_candidates: int) -> int:
    # For each candidate of a row: a distance and a 64-bit key per codeword, and two residuals.
    numbers = n_candidates * (3 * max(len(book) for book in codebooks) + 2 * width)
    return max(1, min(_CHUNK, _NUMBERS_AT_ONCE // numbers))


def _search(
    vectors: Tensor, codebooks: list[Tensor], taken: Tensor, n_candidates: int
) -> tuple[Tensor, Tensor]:
    """As `_nearest_empty`, for one block. `taken` holds the keys of leaves, or a bool per leaf."""
    residual, key = vectors.unsqueeze(1), torch.zeros(len(vectors), 1, dtype=torch.long)
    for level, book in enumerate(codebooks):
        distance = torch.cdist(residual, book.unsqueeze(0)).square()  # (n, W, K)
        keys = key.unsqueeze(-1) * len(book) + torch.arange(len(book))
        is_last = level == len(codebooks) - 1
        if is_last:
            full = taken[keys] if taken.dtype == torch.bool else torch.isin(keys, taken)
            distance = distance.masked_fill(full, torch.inf)
        width = min(n_candidates, distance[0].numel())
        cost, chosen = distance.flatten(1).topk(width, largest=False)
        key = keys.flatten(1).gather(1, chosen)
        if is_last:
            return key.masked_fill(cost == torch.inf, -1), cost
        parent = (chosen // len(book)).unsqueeze(-1).expand(-1, -1, residual.size(-1))
        residual = residual.gather(1, parent) - book[chosen % len(book)]
    raise UserError("redistribution needs at least one codebook.")


def _keys(codes: Tensor, sizes: list[int]) -> Tensor:
    """A unique integer for each code: (N, L) -> (N,)."""
    key = torch.zeros(len(codes), dtype=torch.long)
    for level, size in enumerate(sizes):
        key = key * size + codes[:, level]
    return key


def _digits(keys: Tensor, sizes: list[int]) -> Tensor:
    """The inverse of `_keys`: (N,) -> (N, L)."""
    digits: list[Tensor] = []
    for size in reversed(sizes):
        digits.insert(0, keys % size)
        keys = keys // size
    return torch.stack(digits, dim=1)


def _centroids(codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    return torch.stack([b[c] for b, c in zip(codebooks, codes.T, strict=True)]).sum(0)
