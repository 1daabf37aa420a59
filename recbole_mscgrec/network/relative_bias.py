"""Relative positions as additive attention biases (paper: the two relative position biases), and
the time between items as another."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
N_TIME_BUCKETS = 128  # two per power of two, which is enough for nanoseconds of 290 years


def check_buckets(n_buckets: int, max_distance: int) -> None:
    """Raise UserError for buckets that the distances cannot be spread over (see DistanceBias)."""
    if n_buckets < 2 or max_distance <= n_buckets // 2:
        raise UserError(
            f"n_distance_buckets ({n_buckets}) must be at least 2, and max_distance "
            f"({max_distance}) above half of it: that half holds one distance each, from 0 to "
            f"{n_buckets // 2 - 1}, and the others the distances up to max_distance."
        )


class DistanceBias(nn.Module):
    """Learned relative position bias per head and log-spaced bucket of distance, as in T5.

    Half of the buckets hold one distance each; the others grow logarithmically, and the last one
    holds all distances from `max_distance` on. Keys at negative distances, in the future, are
    masked. With `bidirectional`, negative distances have as many buckets of their own. With `time`,
    a bias over the time between query and key is added (TimeBias).

    Raises:
        UserError: fewer than 2 buckets, or `max_distance` at or below half their number.
    """

    def __init__(
        self,
        n_buckets: int,
        max_distance: int,
        n_heads: int,
        bidirectional: bool = False,
        time: bool = False,
    ) -> None:
        super().__init__()
        check_buckets(n_buckets, max_distance)
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(n_buckets * (1 + bidirectional), n_heads))
        self.time = TimeBias(n_heads) if time else None

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance."""
        exact, size = self.n_buckets // 2, distance.abs()
        ratio = (size.clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        far = exact + (ratio * (self.n_buckets - exact)).long()
        bucket = torch.where(size < exact, size, far.clamp(max=self.n_buckets - 1))
        if self.bidirectional:
            return bucket + self.n_buckets * (distance < 0)
        return torch.where(distance < 0, 0, bucket)

    def forward(self, distance: Tensor, elapsed: Tensor | None = None) -> Tensor:
        """Bias (1 or B, H, Q, T) of distances (1 or B, Q, T); -inf where a key is masked. With
        `time`, elapsed (B, Q, T) is the result of `time_buckets`."""
        bias = self.weight[self.bucket(distance)].permute(0, 3, 1, 2)
        if not self.bidirectional:
            bias = bias.masked_fill(_future(distance), -torch.inf)
        return bias if self.time is None else bias + self.time(elapsed)


class TimeBias(nn.Module):
    """Learned bias per head and bucket of elapsed time, zero at first. As in HSTU (arXiv
    2402.17152), except that there all heads share it."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(N_TIME_BUCKETS, n_heads))

    def forward(self, elapsed: Tensor) -> Tensor:
        """Bias (B, H, Q, T) of buckets uint8 (B, Q, T), see `time_buckets`."""
        bias: Tensor = _LookUp.apply(self.weight, elapsed)
        return bias


class _LookUp(torch.autograd.Function):
    """weight[bucket] with the heads in front. On a CPU, torch's gradient of an index takes five
    times as long: it adds one by one what is counted per head here."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bucket: Tensor) -> Tensor:
        """Weights (K, H), buckets uint8 (B, Q, T) -> (B, H, Q, T)."""
        ctx.save_for_backward(bucket)
        ctx.n_buckets, place = len(weight), bucket.flatten().int()
        rows = [head.index_select(0, place).view(bucket.shape) for head in weight.T]
        return torch.stack(rows, dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Sum of the gradients in each bucket, per head."""
        place = ctx.saved_tensors[0].flatten()
        sums = [place.bincount(g.flatten(), ctx.n_buckets) for g in grad.unbind(1)]
        return torch.stack(sums, dim=1), None


def time_buckets(asked: Tensor, times: Tensor) -> Tensor:
    """Buckets uint8 (B, Q, T) of the time from items had at `times` (B, T) to queries asked at
    `asked` (B, Q), both float64 because float32 has steps of 128 s today.

    There are two buckets per power of two of 1 + elapsed time, so equal times have bucket 0. The
    unit is that of the data; seconds as a rule.
    """
    elapsed = (asked.unsqueeze(2) - times.unsqueeze(1)).abs_().add_(1).float()
    # The exponent of a float32 and the first bit of its fraction count half powers of two, with
    # bounds 1, 1.5, 2, 3, 4, 6, ... They are exact, unlike logarithms, and cheaper.
    halves = (elapsed.view(torch.int32) >> 22) - 2 * 127
    return halves.clamp_(max=N_TIME_BUCKETS - 1).to(torch.uint8)


def elapsed_at(elapsed: Tensor, limit: Tensor, per_item: int) -> Tensor:
    """Buckets (B, Q, T * G) for queries at the positions limit (1 or B, Q), from those of all
    positions (B, T, T); G = `per_item`."""
    rows = limit.unsqueeze(-1).expand(len(elapsed), -1, elapsed.size(2))
    return elapsed.gather(1, rows).repeat_interleave(per_item, 2)


class NoBias(nn.Module):
    """Replaces DistanceBias in the decoder's cross-attention, as in T5: it only masks the
    future."""

    def forward(self, distance: Tensor, elapsed: Tensor | None = None) -> Tensor:
        """Bias (B, 1, Q, T) of distances (B, Q, T): 0, or -inf where a key is masked."""
        bias = torch.zeros(distance.shape, device=distance.device).unsqueeze(1)
        return bias.masked_fill(_future(distance), -torch.inf)


def _future(distance: Tensor) -> Tensor:
    return (distance < 0).unsqueeze(1)


class HistoryBias(nn.Module):
    """Bias of the encoder: over the distance between items and, for G > 1 tokens per item, over the
    pair of positions inside the items (which modality and level attends to which).

    Args:
        item: the bias over distances, in items and perhaps in time.
        n_heads: H.
        per_item: G.
        code_bias: whether the second part is there.
    """

    def __init__(self, item: DistanceBias, n_heads: int, per_item: int, code_bias: bool) -> None:
        super().__init__()
        self.item, self.per_item = item, per_item
        self.code = nn.Parameter(torch.zeros(n_heads, per_item, per_item)) if code_bias else None

    def forward(
        self, item_seq: Tensor, keep: Tensor | None, elapsed: Tensor | None = None
    ) -> Tensor:
        """(1 or B, 1 or H, T * G, T * G) for histories (B, T); -inf for keys where `keep` (B, T *
        G), if given, is False. For `elapsed` (B, T, T) see DistanceBias."""
        n_items = item_seq.size(1)
        position = torch.arange(n_items, device=item_seq.device)
        bias = self.item((position.unsqueeze(1) - position).unsqueeze(0), elapsed)
        if self.per_item > 1:
            bias = bias.repeat_interleave(self.per_item, 2).repeat_interleave(self.per_item, 3)
        if self.code is not None:
            bias = bias + self.code.repeat(1, n_items, n_items)
        return hide(bias, keep)


def hide(bias: Tensor, keep: Tensor | None) -> Tensor:
    """A bias (1 or B, H, Q, S) with -inf for the keys where `keep` (B, S), if given, is False."""
    return bias if keep is None else bias.masked_fill(~keep[:, None, None], -torch.inf)
