"""Paired bootstrap over users: is one model better than another on the same users?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_mscgrec.storage.errors import UserError

N_RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
_CELLS_PER_BLOCK = 4_000_000  # users drawn at once: 32 MB of indices


class Comparison(NamedTuple):
    """Mean differences of M metrics over the same users, each (M,)."""

    difference: np.ndarray
    low: np.ndarray  # of the 95 % percentile interval
    high: np.ndarray
    p: np.ndarray  # two-sided, at least 1 / (resamples + 1)


def paired_bootstrap(
    first: np.ndarray, other: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare `first` with `other`, float (U, M): M metrics of the same U users in the same order.

    Users are drawn with replacement, with the same draws for all metrics. p is the share of
    resamples whose mean difference is at least as far from the observed one as that is from zero,
    that is, the bootstrap distribution shifted to the null hypothesis of no difference.

    Raises:
        UserError: the shapes differ, or there is no user.
    """
    if first.shape != other.shape or first.ndim != 2 or not len(first):
        raise UserError(
            f"paired_bootstrap needs two arrays (users, metrics) of one shape with a user, not "
            f"{first.shape} and {other.shape}: pair the users first."
        )
    gain = first - other  # (U, M)
    observed = gain.mean(axis=0)
    means = _resampled_means(gain, n_resamples, seed)  # (n_resamples, M)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    # Treat differences of the size of rounding errors as zero.
    slack = 1e-12 * np.abs(gain).max(axis=0)
    as_far = (np.abs(means - observed) >= np.abs(observed) - slack).sum(axis=0)
    return Comparison(observed, low, high, (as_far + 1) / (n_resamples + 1))


def _resampled_means(gain: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    n_users = len(gain)
    at_once = max(1, _CELLS_PER_BLOCK // n_users)
    means = []
    for begin in range(0, n_resamples, at_once):
        rows = min(at_once, n_resamples - begin)
        # How often each user is drawn, (rows, U), so that one matrix product serves all metrics.
        drawn = draw.integers(n_users, size=(rows, n_users))
        drawn += n_users * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users)
        means.append(counts.astype(np.float64) @ gain / n_users)
    return np.concatenate(means)
