"""Weights of several models: the best of a grid, the same by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mscgrec.plugin.ensemble_weights import advantages, fit_weights, ndcg_at_10

Tensor = torch.Tensor


def example(n_models: int, n_rows: int = 40, width: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Scores by models of which each knows another part of the rows' targets."""
    generator = torch.Generator().manual_seed(3)
    items = torch.stack([torch.randperm(60, generator=generator)[:width] for _ in range(n_rows)])
    targets = items[:, 7].clone()
    targets[:4] = 99  # not found
    parts = torch.randn(n_rows, width, n_models, generator=generator)
    for model in range(n_models):
        parts[model::n_models, 7, model] += 1.5
    return parts, items + 1, targets + 1


def by_hand(parts: Tensor, items: Tensor, targets: Tensor, weights: Tensor) -> float:
    gain = 0.0
    for row, target in enumerate(targets.tolist()):
        order = (parts[row] @ weights).argsort(descending=True)
        ranked = items[row][order].tolist()[:10]
        if target in ranked:
            gain += 1 / math.log2(ranked.index(target) + 2)
    return gain / len(targets)


def test_the_ndcg_is_that_of_the_ranked_lists() -> None:
    parts, items, targets = example(3)
    ahead = advantages(parts, items, targets)
    assert ahead.shape == (36, 15, 3)
    for weights in ([1.0, 0.0, 0.0], [0.2, 0.5, 0.3]):
        expected = by_hand(parts, items, targets, torch.tensor(weights))
        assert ndcg_at_10(ahead, torch.tensor(weights), 40) == pytest.approx(expected)


@pytest.mark.parametrize("n_models", [2, 3])
def test_no_weights_of_the_grid_are_better(n_models: int) -> None:
    parts, items, targets = example(n_models)
    ahead = advantages(parts, items, targets)
    weights, score = fit_weights(ahead, 40)
    assert float(weights.sum()) == pytest.approx(1) and bool((weights >= 0).all())
    assert by_hand(parts, items, targets, weights) == pytest.approx(score)
    grid = torch.cartesian_prod(*[torch.arange(11)] * n_models)
    grid = grid[grid.sum(1) == 10] / 10
    scores = [by_hand(parts, items, targets, w) for w in grid]
    assert score >= max(scores) - 1e-9 and score > max(scores[0], scores[-1])
    for source in range(n_models):  # nor 0.05 beside them
        for target in range(n_models):
            moved = weights.clone()
            moved[source] -= 0.05
            moved[target] += 0.05
            if moved.min() >= -1e-6:
                assert by_hand(parts, items, targets, moved) <= score + 1e-9


def test_a_model_that_knows_all_gets_all_or_enough() -> None:
    parts, items, targets = example(2)
    parts[:, :, 1] = (items == targets.unsqueeze(1)).float()
    weights, score = fit_weights(advantages(parts, items, targets), 40)
    assert score == pytest.approx(36 / 40) and float(weights[1]) > 0.3


def test_equal_results_leave_the_weight_on_the_first_model() -> None:
    parts, items, targets = example(2)
    weights, _ = fit_weights(advantages(parts[:, :, :1].expand(-1, -1, 2), items, targets), 40)
    assert weights.tolist() == [1.0, 0.0]
    nothing = advantages(parts[:4], items[:4], targets[:4])  # no target was found
    weights, score = fit_weights(nothing, 4)
    assert weights.tolist() == [1.0, 0.0] and score == 0.0


def test_places_without_an_item_stay_behind() -> None:
    parts, items, targets = example(2)
    parts[:, 9:] = -torch.inf
    ahead = advantages(parts, items, targets)
    assert bool((ahead[:, 9:] < -1e8).all()) and bool(ahead.isfinite().all())
