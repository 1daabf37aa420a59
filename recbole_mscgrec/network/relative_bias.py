"""Relative positions as additive attention biases (paper: the two relative position biases)."""

from __future__ import annotations

import math

import torch
from torch import nn

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


def check_buckets(n_buckets: int, max_distance: int) -> None:
    """Raise UserError if DistanceBias cannot spread the distances over these buckets."""
    if n_buckets < 2 or max_distance <= n_buckets // 2:
        raise UserError(
            f"n_distance_buckets ({n_buckets}) must be at least 2, and max_distance "
            f"({max_distance}) above half of it: half of the buckets hold one distance each, from "
            f"0 to {n_buckets // 2 - 1}, and the others hold the distances up to max_distance."
        )


class DistanceBias(nn.Module):
    """Learned relative position bias per head and log-spaced bucket of distance, as in T5.

    Half of the buckets hold one distance each; the widths of the others grow exponentially, and the
    last one holds all distances from `max_distance` on. Keys at negative distances, in the future,
    are masked. With `bidirectional`, negative distances have an equal number of own buckets.

    Raises:
        UserError: fewer than 2 buckets, or `max_distance` at or below half their number.
    """

    def __init__(
        self, n_buckets: int, max_distance: int, n_heads: int, bidirectional: bool = False
    ) -> None:
        super().__init__()
        check_buckets(n_buckets, max_distance)
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(n_buckets * (1 + bidirectional), n_heads))

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance, in the same shape."""
        exact, size = self.n_buckets // 2, distance.abs()
        ratio = (size.clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        far = exact + (ratio * (self.n_buckets - exact)).long()
        bucket = torch.where(size < exact, size, far.clamp(max=self.n_buckets - 1))
        if self.bidirectional:
            return bucket + self.n_buckets * (distance < 0)
        return torch.where(distance < 0, 0, bucket)

    def forward(self, distance: Tensor) -> Tensor:
        """Bias (1 or B, H, Q, T) of distances (1 or B, Q, T); -inf where a key is masked."""
        bias = self.weight[self.bucket(distance)].permute(0, 3, 1, 2)
        if not self.bidirectional:
            bias = bias.masked_fill(_future(distance), -torch.inf)
        return bias


class NoBias(nn.Module):
    """Replaces DistanceBias in the decoder's cross-attention, as in T5: there is no bias, only the
    future is masked."""

    def forward(self, distance: Tensor) -> Tensor:
        """Bias (B, 1, Q, T) of distances (B, Q, T): 0, or -inf where a key is masked."""
        bias = torch.zeros(distance.shape, device=distance.device).unsqueeze(1)
        return bias.masked_fill(_future(distance), -torch.inf)


def _future(distance: Tensor) -> Tensor:
    return (distance < 0).unsqueeze(1)


class HistoryBias(nn.Module):
    """Bias of the encoder: it depends on the distance between items and, for G > 1 tokens per item,
    on the positions of both tokens inside their items (which modality and level attends to which).

    Args:
        item: the bias for distances.
        n_heads: H.
        per_item: G.
        code_bias: whether to add the bias for positions inside items.
    """

    def __init__(self, item: DistanceBias, n_heads: int, per_item: int, code_bias: bool) -> None:
        super().__init__()
        self.item, self.per_item = item, per_item
        self.code = nn.Parameter(torch.zeros(n_heads, per_item, per_item)) if code_bias else None

    def forward(self, item_seq: Tensor, keep: Tensor | None) -> Tensor:
        """(1 or B, 1 or H, T * G, T * G) for histories (B, T); -inf for keys where `keep` (B, T *
        G), if given, is False."""
        n_items = item_seq.size(1)
        position = torch.arange(n_items, device=item_seq.device)
        bias = self.item((position.unsqueeze(1) - position).unsqueeze(0))
        if self.per_item > 1:
            bias = bias.repeat_interleave(self.per_item, 2).repeat_interleave(self.per_item, 3)
        if self.code is not None:
            bias = bias + self.code.repeat(1, n_items, n_items)
        return hide(bias, keep)


def hide(bias: Tensor, keep: Tensor | None) -> Tensor:
    """A bias (1 or B, H, Q, S) with -inf for the keys where `keep` (B, S), if given, is False."""
    return bias if keep is None else bias.masked_fill(~keep[:, None, None], -torch.inf)
