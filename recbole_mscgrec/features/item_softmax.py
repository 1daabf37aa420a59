"""Cross-entropy over the items of a large catalogue in bounded memory, either over all items or
over sampled negatives with logQ correction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding, normalize, softplus

Tensor = torch.Tensor
FULL_UP_TO = 20_000  # items; a larger catalogue is sampled unless `n_negatives` says otherwise
N_NEGATIVES = 2048  # drawn for a batch of a larger catalogue
_IN_ONE_PIECE = 1 << 26  # up to this number of logits (256 MB), all are computed at once
_ROWS, _COLUMNS = 1 << 9, 1 << 10  # size of a block of logits; 2 MB stay in the cache
_POWER = 0.75  # exponent of the counts in the sampling probabilities
COSINE = "cosine"
_TEMPERATURE = {COSINE: 0.07}  # other similarities: 1


@dataclass(frozen=True)
class Similarity:
    """The score of an item for a history: the inner product or the cosine of their vectors, divided
    by a temperature.

    Attributes:
        cosine: whether both vectors are scaled to unit length.
        temperature: the divisor, above 0.
    """

    cosine: bool = False
    temperature: float = 1.0

    @classmethod
    def of(cls, name: str | None, temperature: float | None) -> Similarity:
        """The similarity for the settings `similarity` and `temperature`; None: their defaults."""
        return cls(name == COSINE, temperature or _TEMPERATURE.get(str(name), 1.0))

    def queries(self, hidden: Tensor) -> Tensor:
        """Scaled vectors of histories (..., D): their inner product with the result of `items` is
        the score."""
        return self.items(hidden) / self.temperature

    def items(self, weight: Tensor) -> Tensor:
        """Vectors of items (..., D), scaled to unit length for the cosine."""
        return normalize(weight, dim=-1) if self.cosine else weight


def item_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    negatives: tuple[Tensor, Tensor] | None = None,
    similarity: Similarity = Similarity(),  # noqa: B008, it cannot change
) -> Tensor:
    """Mean cross-entropy of the targets under the softmax over the scores of all items.

    With negatives, the sum over all items in the denominator is replaced by an unbiased estimate
    from them (sampled softmax with logQ correction): the target's own term is exact, and the term
    of a negative is divided by the expected number of its draws.

    Args:
        hidden: (n, D), the result of `similarity.queries`.
        weight: (N, D), the embedding of all items.
        targets: long (n,), ids of items.
        negatives: shared by all rows, from `NegativeSampler.draw`; None: use all items.
        similarity: how items are scored.
    """
    if negatives is None and len(hidden) * len(weight) <= _IN_ONE_PIECE:
        return cross_entropy(hidden @ similarity.items(weight).T, targets)
    hidden, weight = hidden.float(), weight.float()
    of_target = (hidden * similarity.items(embedding(targets, weight))).sum(1)
    nothing = torch.full_like(targets, -1)
    if negatives is None:
        weight = similarity.items(weight)
        zero = weight.new_zeros(len(weight))
        return (log_sum_exp(hidden, weight, zero, nothing) - of_target).mean()
    items, correction = negatives
    column = torch.searchsorted(items, targets).clamp(max=len(items) - 1)
    own = torch.where(items[column] == targets, column, nothing)
    drawn = similarity.items(embedding(items, weight))
    others = log_sum_exp(hidden, drawn, correction, own)
    return softplus(others - of_target).mean()  # log(exp(others) + exp(of_target)) - of_target


class NegativeSampler:
    """Draws items in proportion to (count + 1) ** 0.75, with replacement.

    Args:
        counts: (N,), how often each item is a target in training.
        n_negatives: number of draws.
    """

    def __init__(self, counts: np.ndarray, n_negatives: int, device: torch.device | str) -> None:
        share = (counts.astype(np.float64) + 1) ** _POWER
        self.share = torch.from_numpy(share / share.sum()).to(device)
        self.bound = self.share.cumsum(0)
        self.n_negatives = n_negatives

    def draw(self) -> tuple[Tensor, Tensor]:
        """The distinct items drawn, ascending, (C,), and the corrections to add to their logits,
        (C,): the logarithm of the number of draws divided by the expected number."""
        at = torch.rand(self.n_negatives, dtype=torch.float64, device=self.bound.device)
        drawn = torch.searchsorted(self.bound, at).clamp(max=len(self.bound) - 1)
        items, count = drawn.unique(return_counts=True)
        expected = self.share[items] * self.n_negatives
        return items, (count / expected).log().float()


def n_sampled(n_negatives: int | None, n_items: int) -> int:
    """The number of negatives for the setting `n_negatives` and N items; 0: use all items."""
    if n_negatives is None:
        return N_NEGATIVES if n_items > FULL_UP_TO else 0
    return n_negatives


def log_sum_exp(hidden: Tensor, weight: Tensor, correction: Tensor, leave_out: Tensor) -> Tensor:
    """Logarithm of the sum of exp(hidden @ weight.T + correction) over the columns: (n,).

    `leave_out` (n,) names one column that each row leaves out; -1 for none. The logits are computed
    in blocks, and again for the gradient, so memory does not depend on their number.
    """
    result: Tensor = _LogSumExp.apply(hidden, weight, correction, leave_out)
    return result


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, correction: Tensor, leave_out: Tensor
    ) -> Tensor:
        least = torch.finfo(hidden.dtype).min
        largest, total = hidden.new_full((len(hidden),), least), hidden.new_zeros(len(hidden))
        for rows, _, logits in _blocks(hidden, weight, correction, leave_out):
            larger = torch.maximum(largest[rows], logits.amax(1))
            of_block = logits.sub_(larger.unsqueeze(1)).exp_().sum(1)
            total[rows] = total[rows] * (largest[rows] - larger).exp() + of_block
            largest[rows] = larger
        result = (total.log() + largest).clamp(min=least)  # finite even if all is left out
        context.save_for_backward(hidden, weight, correction, leave_out, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, correction, leave_out, result = context.saved_tensors
        of_hidden, of_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for rows, columns, logits in _blocks(hidden, weight, correction, leave_out):
            share = logits.sub_(result[rows].unsqueeze(1)).exp_()
            share *= gradient[rows].unsqueeze(1)
            of_hidden[rows].addmm_(share, weight[columns])
            of_weight[columns].addmm_(share.T, hidden[rows])
        return of_hidden, of_weight, None, None


def _blocks(
    hidden: Tensor, weight: Tensor, correction: Tensor, leave_out: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows, columns and logits of each block; the caller may overwrite the logits."""
    with torch.autocast(hidden.device.type, enabled=False):
        for left in range(0, len(weight), _COLUMNS):
            columns = slice(left, min(left + _COLUMNS, len(weight)))
            for top in range(0, len(hidden), _ROWS):
                rows = slice(top, min(top + _ROWS, len(hidden)))
                logits = torch.addmm(correction[columns], hidden[rows], weight[columns].T)
                place = leave_out[rows] - left
                out = ((place >= 0) & (place < logits.size(1))).nonzero().flatten()
                logits[out, place[out]] = -torch.inf
                yield rows, columns, logits
