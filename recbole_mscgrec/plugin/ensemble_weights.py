"""Weights of several models that rank the same items, fitted on validation (`rescore_weight:
fit`)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Tensor = torch.Tensor
_COARSE, _FINE = 10, 20  # steps of 0.1 and of 0.05
_NOWHERE = -1e9  # replaces -inf, because -inf times a weight of 0 is NaN


def advantages(parts: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """How far each item is ahead of the row's target, by each model: float (R, W, M).

    Args:
        parts: (B, W, M) log-probabilities of W items by M models.
        items: long (B, W).
        targets: long (B,). Rows whose target is not among their items are left out, since no
            weights bring it into the list: R of B rows remain.
    """
    is_target = items == targets.unsqueeze(1)
    rows = is_target.any(1)
    parts, place = parts[rows].float(), is_target[rows].int().argmax(1)
    parts = torch.where(parts.isneginf().any(2, keepdim=True), _NOWHERE, parts)
    own = parts[torch.arange(len(parts), device=parts.device), place]
    return parts - own.unsqueeze(1)


def ndcg_at_10(ahead: Tensor, weights: Tensor, n_rows: int) -> float:
    """NDCG@10 of the items in the order of the weighted mean of the models.

    Args:
        ahead: (R, W, M), see `advantages`.
        weights: (M,).
        n_rows: number of rows, those without their target in the list included.
    """
    rank = (ahead @ weights.to(ahead) > 0).sum(1).double()
    gain = torch.where(rank < 10, 1 / torch.log2(rank + 2), 0.0)
    return float(gain.sum()) / max(n_rows, 1)


def fit_weights(ahead: Tensor, n_rows: int) -> tuple[Tensor, float]:
    """The weights with the highest NDCG@10, which sum to 1, (M,), and that NDCG.

    All weights in steps of 0.1 are tried. From the best, 0.05 is moved from one model to another as
    long as this helps. Of equally good weights the first is taken, in the order in which the first
    model loses weight, so the result is always the same.
    """
    n_models = ahead.size(2)

    def best_of(tried: Iterator[list[int]], steps: int) -> tuple[float, list[int]]:
        found = ((ndcg_at_10(ahead, torch.tensor(w) / steps, n_rows), w) for w in tried)
        return max(found, key=lambda pair: pair[0])  # the first of the best

    score, coarse = best_of(_compositions(_COARSE, n_models), _COARSE)
    weights = [w * (_FINE // _COARSE) for w in coarse]
    while n_models > 1:
        better, moved = best_of(_moves(weights), _FINE)
        if better <= score:
            break
        score, weights = better, moved
    return torch.tensor(weights) / _FINE, score


def _compositions(total: int, n: int) -> Iterator[list[int]]:
    """All ways to split `total` into n whole numbers, the first number from large to small."""
    if n == 1:
        yield [total]
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, n - 1):
            yield [first, *rest]


def _moves(weights: list[int]) -> Iterator[list[int]]:
    """These weights with one step moved from one model to another."""
    for source, weight in enumerate(weights):
        for target in range(len(weights)):
            if source != target and weight > 0:
                moved = list(weights)
                moved[source] -= 1
                moved[target] += 1
                yield moved
