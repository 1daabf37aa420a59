"""Codes for items that are added to a published code table.

No published code moves, no two items share a code, and the codebooks do not grow: the network has
weights for the codewords of training only. A leaf is one full code; a place is all leaves below one
content code: one leaf, or as many as the collision level has numbers.

Leaves are numbered in the order of their codes, so that a place, like every node of the prefix
tree, is a range of numbers. All steps work on the sorted numbers of the leaves that are taken.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from recbole_mscgrec.semantic_ids.precision import HIGHEST, matmul_precision
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_WIDTHS = (64, 256)  # places per item that the search finds, at first and if all these are full
_SCORES_AT_ONCE = 1 << 22  # (items, beams, codewords) of a block of the search
_LARGEST_NUMBER = 1 << 62


class Leaves:
    """The leaves of a tree with given codebook sizes, and which of them are taken.

    Args:
        sizes: number of codewords of each level.
        taken: (N, L) published codes.

    Raises:
        UserError: the codes span more than 2^62 leaves, or one is outside the codebooks.
    """

    def __init__(self, sizes: list[int], taken: Tensor) -> None:
        if math.prod(sizes) > _LARGEST_NUMBER:
            raise UserError(
                f"Items cannot be added to codes with {sizes} codewords per level: these are "
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
        """The number (n,) of the first leaf below each code or prefix (n, at most L)."""
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
        """The lowest free leaf below a node for each of n items, -1 where none is left.

        first (n,) are the first leaves of the nodes, which may repeat; among the items of one node
        the earlier ones choose first. The leaves are taken from then on.
        """
        rank = _rank_among_equals(first)
        # The leaf that has k free ones before it comes after all taken ones that have at most k.
        k = first - np.searchsorted(self.taken, first) + rank
        leaf = k + np.searchsorted(self.free_before, k, side="right")
        leaf[rank >= self.n_free(first, n_below)] = -1
        added = np.sort(leaf[leaf >= 0])
        if len(added):  # a stable sort merges two sorted runs without sorting them again
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

    An item gets its own content code, found greedily as in `ResidualQuantizer.encode`, with the
    lowest free number of the collision level, if there is one. If that place is full, it gets the
    nearest place that is not, by a beam search over the codebooks; and if all places that the
    search finds are full, a free leaf with the longest common prefix. Where items compete for a
    leaf, the earlier row gets it, so the result depends on the order of the rows and on nothing
    else.

    Args:
        codebooks: (K_l, D) of each content level.
        sizes: number of codewords of each level, including the collision level if there is one.
        taken: (N, L) published codes.

    Raises:
        UserError: there are fewer free leaves than items, or see `Leaves`.
    """
    leaves = _checked(len(vectors), sizes, taken)
    quantizer = ResidualQuantizer([len(book) for book in codebooks])
    quantizer.codebooks = [book.float() for book in codebooks]
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
    """Unique codes (n, L) near given content codes (n, at most L), for codes without codebooks.

    An item gets the lowest free leaf below its content code. If there is none, it gets the lowest
    free leaf with the longest common prefix. For the order of rows, `sizes` and `taken` see
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
            f"{n_new:,} new items need as many free codes, and {n_all - len(taken):,} of "
            f"{n_all:,} are free (codewords per level: {sizes}, items: {len(taken):,}): train "
            "again with a larger codebook_size or n_levels, or add fewer items."
        )
    return Leaves(sizes, taken)


def _first_free(places: np.ndarray, leaves: Leaves, n_below: int) -> np.ndarray:
    """A leaf (n,) below the first of each row's places (n, C) that has one; -1 where none has."""
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
    """The codes of leaves (n,), where -1 becomes a free leaf below the longest prefix of its wanted
    code, of at most `depth` levels, that has one."""
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
    """Numbers (n, at most `width`) of the content codes nearest to vectors (n, D), in ascending
    order of distance, by a beam search."""
    products = _doubled_products(codebooks)
    rows = max(1, _SCORES_AT_ONCE // (width * max(len(book) for book in codebooks)))
    return np.concatenate(
        [_search(block, codebooks, products, width).numpy() for block in vectors.split(rows)]
    )


def _doubled_products(codebooks: list[Tensor]) -> list[list[Tensor]]:
    """Twice the products (K_e, K_l) of the codewords of every level l with those of the earlier
    levels e."""
    with matmul_precision(HIGHEST):
        return [[2 * e @ book.T for e in codebooks[:n]] for n, book in enumerate(codebooks)]


def _search(
    vectors: Tensor, codebooks: list[Tensor], products: list[list[Tensor]], width: int
) -> Tensor:
    """See `_nearest_places`. The distance of a residual r to a codeword c needs r c = v c - the
    products of c with the codewords chosen before, so no residual is made."""
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
