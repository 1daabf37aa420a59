"""Paired bootstrap: known answers, exact pairing, the same answer every time."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_mscgrec.experiments import significance
from recbole_mscgrec.experiments.significance import paired_bootstrap


def normal(n_users: int, mean: float, seed: int = 0) -> np.ndarray:
    """Differences with exactly this mean and standard deviation 1: (U, 1)."""
    values = np.random.default_rng(seed).normal(size=(n_users, 1))
    return (values - values.mean()) / values.std() + mean


def test_a_model_against_itself_shows_no_difference() -> None:
    values = np.random.default_rng(0).random((50, 3))
    found = paired_bootstrap(values, values.copy(), n_resamples=200)
    assert found.difference.tolist() == found.low.tolist() == found.high.tolist() == [0, 0, 0]
    assert found.p.tolist() == [1, 1, 1]


def test_a_constant_advantage_is_as_certain_as_the_resamples_allow() -> None:
    values = np.random.default_rng(0).random((50, 1))
    found = paired_bootstrap(values + 0.1, values, n_resamples=999)
    assert found.difference[0] == pytest.approx(0.1)
    assert found.low[0] == pytest.approx(0.1) and found.high[0] == pytest.approx(0.1)
    assert found.p[0] == pytest.approx(1 / 1000)


def test_interval_and_p_are_those_of_the_normal_distribution() -> None:
    """400 users, standard deviation 1: the standard error is .05."""
    found = paired_bootstrap(normal(400, 0.1), np.zeros((400, 1)))
    assert found.difference[0] == pytest.approx(0.1)
    assert found.low[0] == pytest.approx(0.1 - 1.96 * 0.05, abs=0.004)
    assert found.high[0] == pytest.approx(0.1 + 1.96 * 0.05, abs=0.004)
    assert found.p[0] == pytest.approx(0.0455, abs=0.012)  # two standard errors


def test_sides_change_places() -> None:
    first, other = normal(80, 0.3), normal(80, 0.0, seed=1)
    one, two = paired_bootstrap(first, other), paired_bootstrap(other, first)
    assert one.difference == pytest.approx(-two.difference)
    assert one.low == pytest.approx(-two.high) and one.p == pytest.approx(two.p)


def test_all_resamples_of_three_users_by_hand() -> None:
    """Gains 0, 0, 3: a resample's mean is Binomial(3, 1/3). From the mean 1 at least 1 away lie
    0 (8/27), 2 (6/27) and 3 (1/27)."""
    gain = np.array([[0.0], [0.0], [3.0]])
    found = paired_bootstrap(gain, np.zeros_like(gain), n_resamples=40_000)
    assert found.p[0] == pytest.approx(15 / 27, abs=0.01)
    assert (found.low[0], found.high[0]) == (0.0, 3.0)


def test_the_same_seed_gives_the_same_answer_whatever_fits_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, other = normal(60, 0.1), normal(60, 0.0, seed=1)
    whole = paired_bootstrap(first, other, n_resamples=500, seed=3)
    monkeypatch.setattr(significance, "_CELLS_PER_BLOCK", 60 * 7)
    for again, value in zip(paired_bootstrap(first, other, 500, 3), whole, strict=True):
        assert again == pytest.approx(value)
    assert paired_bootstrap(first, other, 500, 4).low != pytest.approx(whole.low)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Without a difference, p is below .05 in about one of twenty comparisons."""
    draw = np.random.default_rng(0)
    gain = draw.normal(size=(100, 400))
    p = paired_bootstrap(gain, np.zeros_like(gain), n_resamples=1000).p
    assert 0.02 < (p < 0.05).mean() < 0.09


@pytest.mark.parametrize("shapes", [((3, 1), (4, 1)), ((3,), (3,)), ((0, 1), (0, 1))])
def test_what_cannot_be_paired_is_refused(shapes: tuple) -> None:
    with pytest.raises(ValueError, match="pair the users first"):
        paired_bootstrap(*(np.zeros(shape) for shape in shapes))
