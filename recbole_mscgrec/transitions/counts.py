"""Sequential rules a -> b: pairs of items where b follows a in the train split."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch

from recbole_mscgrec.transitions.model import Transitions

MAX_DISTANCE = 30  # largest distance between the items of a rule; a pair at distance d counts 1 / d
TEXT_PAIRS = 40.0  # the text of an item weighs as much as this number of pairs in its rules
MOST_RULES = 1000  # rules kept per item, those with the largest weights; bounds the memory


def count_transitions(
    train: Any,
    text: torch.Tensor | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    text_pairs: float = TEXT_PAIRS,
    popularity_power: float = 0.0,
) -> Transitions:
    """The transitions of a train split, for N items with the padding item 0.

    Args:
        train: the TiledDataset of the train split.
        text: (N, D), vectors of the items' texts, zero for items without text. None: no texts.
        max_distance: largest distance between the two items of a pair.
        text_pairs: how many pairs in its rules the text of an item is worth.
        popularity_power: the weight of a rule a -> b is divided by this power of the frequency of
            b.
    """
    counts = train.target_counts()
    rules, n_pairs = sequential_rules(train, max_distance, counts, popularity_power)
    popularity = np.r_[0.0, counts[1:] + 1.0]  # 0: the padding item is never recommended
    vectors = torch.zeros(len(counts), 1) if text is None or not text_pairs else text.float()
    share = text_pairs / np.maximum(n_pairs + text_pairs, 1e-12) * vectors.any(1).numpy()
    weight = rules.data * np.repeat(1 - share, np.diff(rules.indptr))
    return Transitions(
        start=torch.from_numpy(rules.indptr).long(),
        item=torch.from_numpy(rules.indices).int(),
        weight=torch.from_numpy(weight).float(),
        popularity=torch.from_numpy(popularity / popularity.sum()).float(),
        text=torch.nn.functional.normalize(vectors, dim=1).half(),
        text_share=torch.from_numpy(share).float(),
    )


def sequential_rules(
    train: Any, max_distance: int, counts: np.ndarray, popularity_power: float
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """The weights of the rules a -> b, in row a and column b of a matrix (N, N) whose rows sum to 1
    or are empty; and for each item a the sum of 1 / distance over its pairs, (N,).

    Each item keeps at most `MOST_RULES` rules, those with the largest weights.

    Args:
        train: the TiledDataset of the train split.
        max_distance: largest distance between the two items of a pair.
        counts: (N,), how often each item is a target.
        popularity_power: the weight of a rule a -> b is divided by this power of the count of b.
    """
    n_items = train.item_num
    rules = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    for distance in range(1, max_distance + 1):
        earlier, later = train.pairs(distance)
        if not len(later):
            break
        values = np.full(len(later), 1 / distance)
        rules += sparse.csr_matrix((values, (earlier, later)), shape=rules.shape)
    n_pairs = np.asarray(rules.sum(1)).ravel()
    rules.data /= counts[rules.indices] ** popularity_power
    rules = _heaviest(rules, MOST_RULES)
    sums = np.asarray(rules.sum(1)).ravel()
    rules.data /= np.repeat(sums, np.diff(rules.indptr))
    return rules, n_pairs


def _heaviest(rules: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """The matrix with only the n largest values of each row."""
    length = np.diff(rules.indptr)
    if length.max(initial=0) <= n:
        return rules
    row = np.repeat(np.arange(len(length)), length)
    order = np.lexsort((-rules.data, row))  # by row; the largest value of a row first
    rank = np.arange(len(row)) - np.repeat(rules.indptr[:-1], length)
    kept = np.sort(order[rank < n])
    return sparse.csr_matrix((rules.data[kept], (row[kept], rules.indices[kept])), rules.shape)
