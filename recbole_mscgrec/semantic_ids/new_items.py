"""Codes for items that are added to a published code table.

No published code changes, no two items share a code, and the codebooks do not grow, because the
network has weights only for the codewords of training. A leaf is one full code. A place is the set
of leaves below one content code: a single leaf, or one per number of the collision level.

Leaves are numbered in the order of their codes, so a place, like every node of the prefix tree, is
a range of numbers. All steps work on the sorted numbers of the leaves that are taken.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from recbole_mscgrec.semantic_ids.precision import HIGHEST, matmul_precision
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer, near_origin
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_WIDTHS = (64, 256)  # places per item to search for: first, and again if all of these are full
_SCORES_AT_ONCE = 1 << 22  # items x beams x codewords per block of the search
_LARGEST_NUMBER = 1 << 62


class Leaves:
    """The leaves of a full tree with given codebook sizes, and which of them are taken.

    Args:
        sizes: number of codewords of each level.
        taken: (N, L) published codes.

    Raises:
        UserError: the codes span more than 2^62 leaves, or one is outside the codebooks.
    """

    def __init__(self, sizes: list[int], taken: Tensor) -> None:
        if math.prod(sizes) > _LARGEST_NUMBER:
            raise UserError(
                f"Items cannot be added to codes with {sizes} codewords per level: this gives "
                f"{math.prod(sizes):.1e} codes, and at most {_LARGEST_NUMBER:.1e} can be numbered."
            )
        if taken.numel() and bool(((taken < 0) | (taken >= torch.tensor(sizes))).any()):
            raise UserError(f"The published codes do not fit their codebooks of {sizes} codewords.")
        self.sizes = sizes
        self._take(np.sort(self.numbers(taken)))

    def _take(self, taken: np.ndarray) -> None:
        self.taken = taken
        self.free_before = taken - np.arange(len(taken))  # free leaves before each taken one

    def numbers(self, codes: Tensor) -> np.ndarray:
        """The number (n,) of the first leaf below each code or prefix, (n, up to L)."""
        number = np.zeros(len(codes), dtype=np.int64)
        columns = codes.T.numpy()
        for level, size in enumerate(self.sizes):
            number *= size
            if level < len(columns):
                number += columns[level]
        return number

    def codes(self, numbers: np.ndarray) -> Tensor:
        """The codes (n, L) of leaves (n,)."""
        digits = []
        for size in reversed(self.sizes):
            numbers, digit = np.divmod(numbers, size)
            digits.append(digit)
        return torch.from_numpy(np.stack(digits[::-1], axis=1))

    def below(self, depth: int) -> int:
        """Number of leaves below a node of this depth."""
        return math.prod(self.sizes[depth:])

    def claim(self, first: np.ndarray, n_below: int) -> np.ndarray:
        """Take the lowest free leaf below a node for each of n items: numbers (n,), -1 where none
        is left.

        `first` (n,) holds the first leaf of each item's node. Nodes may repeat; earlier items
        choose first.
        """
        rank = _rank_among_equals(first)
        # The free leaf with k free ones before it follows all taken leaves with at most k.
        k = first - np.searchsorted(self.taken, first) + rank
        leaf = k + np.searchsorted(self.free_before, k, side="right")
        leaf[rank >= self.n_free(first, n_below)] = -1
        added = np.sort(leaf[leaf >= 0])
        if len(added):  # a stable sort only merges the two sorted runs
            self._take(np.sort(np.concatenate([self.taken, added]), kind="stable"))
        return leaf

    def n_free(self, first: np.ndarray, n_below: int) -> np.ndarray:
        """Number of free leaves below the nodes with these first leaves, shaped like `first`."""
        before, after = (np.searchsorted(self.taken, first + n) for n in (0, n_below))
        return n_below - (after - before)


def codes_of_vectors(
    vectors: Tensor, codebooks: list[Tensor], sizes: list[int], taken: Tensor
) -> Tensor:
    """Unique codes (n, L) for new items with vectors (n, D) in the space of the codebooks.

    An item gets the content code that `ResidualQuantizer.encode` gives it, with the lowest free
    number of the collision level, if the codes have one. If that place is full, a beam search over
    the codebooks finds the nearest place that is not. If all places that the search finds are full,
    the item gets a free leaf with the longest common prefix. If items compete for a leaf, the
    earlier row gets it. So the result is deterministic, but depends on the order of the rows.

    Args:
        codebooks: (K_l, D) of each content level.
        sizes: number of codewords of each level, including the collision level if there is one.
        taken: (N, L) published codes.

    Raises:
        UserError: there are fewer free leaves than items; see also `Leaves`.
    """
    leaves = _checked(len(vectors), sizes, taken)
    quantizer = ResidualQuantizer([len(book) for book in codebooks])
    books = [book.float() for book in codebooks]
    vectors, quantizer.codebooks = near_origin(vectors.float(), books)
    own = quantizer.encode(vectors)
    depth = len(codebooks)
    leaf = leaves.claim(leaves.numbers(own), leaves.below(depth))
    for width in _WIDTHS:
        left = np.flatnonzero(leaf < 0)
        if len(left):
            rows = vectors[torch.from_numpy(left)]
            places = _nearest_places(rows, quantizer.codebooks, width) * leaves.below(depth)
            leaf[left] = _first_free(places, leaves, leaves.below(depth))
    return _fill_by_prefix(leaf, own, leaves, depth - 1)


def codes_near(wanted: Tensor, sizes: list[int], taken: Tensor) -> Tensor:
    """Unique codes (n, L) near given content codes, (n, up to L), for codes without codebooks.

    An item gets the lowest free leaf below its content code. If there is none, it gets the lowest
    free leaf with the longest common prefix. The order of the rows, `sizes` and `taken` are as in
    `codes_of_vectors`.

    Raises:
        UserError: see `codes_of_vectors`.
    """
    leaves = _checked(len(wanted), sizes, taken)
    return _fill_by_prefix(np.full(len(wanted), -1), wanted, leaves, wanted.size(1))


def _checked(n_new: int, sizes: list[int], taken: Tensor) -> Leaves:
    n_all = math.prod(sizes)
    if n_all - len(taken) < n_new:
        raise UserError(
            f"{n_new:,} new items need as many free codes, but only {n_all - len(taken):,} of "
            f"{n_all:,} are free (codewords per level: {sizes}, items: {len(taken):,}): train "
            "again with a larger codebook_size or n_levels, or add fewer items."
        )
    return Leaves(sizes, taken)


def _first_free(places: np.ndarray, leaves: Leaves, n_below: int) -> np.ndarray:
    """A free leaf (n,) of the first place in each row of places (n, C) that has one, else -1."""
    full = leaves.n_free(places, n_below) == 0
    places = np.take_along_axis(places, np.argsort(full, axis=1, kind="stable"), axis=1)
    n_open = (~full).sum(axis=1)
    leaf = np.full(len(places), -1)
    for column in range(int(n_open.max())):
        waiting = np.flatnonzero((leaf < 0) & (n_open > column))
        if not len(waiting):
            break
        leaf[waiting] = leaves.claim(places[waiting, column], n_below)
    return leaf


def _fill_by_prefix(leaf: np.ndarray, wanted: Tensor, leaves: Leaves, depth: int) -> Tensor:
    """The codes (n, L) of leaves (n,). An item with leaf -1 gets a free leaf with the longest
    possible prefix of its wanted code, of at most `depth` levels."""
    while (left := np.flatnonzero(leaf < 0)).size:
        prefix = wanted[torch.from_numpy(left), :depth]
        leaf[left] = leaves.claim(leaves.numbers(prefix), leaves.below(depth))
        depth -= 1
    return leaves.codes(leaf)


def _rank_among_equals(values: np.ndarray) -> np.ndarray:
    """For each value (n,), how many earlier ones are equal to it."""
    order = np.argsort(values, kind="stable")
    ordered, index = values[order], np.arange(len(values))
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(values)]
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = index - np.maximum.accumulate(np.where(starts, index, 0))
    return rank


# --- search ---------------------------------------------------------------------------------------


def _nearest_places(vectors: Tensor, codebooks: list[Tensor], width: int) -> np.ndarray:
    """Numbers (n, up to `width`) of the content codes nearest to vectors (n, D), nearest first, by
    beam search."""
    products = _doubled_products(codebooks)
    rows = max(1, _SCORES_AT_ONCE // (width * max(len(book) for book in codebooks)))
    return np.concatenate(
        [_search(block, codebooks, products, width).numpy() for block in vectors.split(rows)]
    )


def _doubled_products(codebooks: list[Tensor]) -> list[list[Tensor]]:
    """For every level l and every earlier level e: twice the inner products (K_e, K_l) of their
    codewords."""
    with matmul_precision(HIGHEST):
        return [[2 * e @ book.T for e in codebooks[:n]] for n, book in enumerate(codebooks)]


def _search(
    vectors: Tensor, codebooks: list[Tensor], products: list[list[Tensor]], width: int
) -> Tensor:
    """As `_nearest_places`, for one block. The distance of a residual r to a codeword c needs only
    the product r c. It is v c minus the products of c with the codewords chosen so far, so the
    residuals themselves are not computed."""
    vectors, n = vectors.float(), len(vectors)
    cost, number = torch.zeros(n, 1), torch.zeros(n, 1, dtype=torch.long)
    chosen = torch.zeros(n, 1, 0, dtype=torch.long)  # (n, W, levels)
    for book, earlier in zip(codebooks, products, strict=True):
        with matmul_precision(HIGHEST):
            alone = book.square().sum(1) - 2 * vectors @ book.T  # (n, K)
        scores = cost.unsqueeze(-1) + alone.unsqueeze(1)  # (n, W, K)
        for level, product in enumerate(earlier):
            scores += product[chosen[..., level]]
        cost, best = scores.flatten(1).topk(min(width, scores[0].numel()), largest=False)
        parent, code = best // len(book), best % len(book)
        number = number.gather(1, parent) * len(book) + code
        kept = chosen.gather(1, parent.unsqueeze(-1).expand(-1, -1, chosen.size(-1)))
        chosen = torch.cat([kept, code.unsqueeze(-1)], dim=-1)
    return number
