"""Transformer blocks in T5's style: pre-norm, RMSNorm, no biases in linear maps, additive relative
position biases. They know nothing of items, codes or trees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

Tensor = torch.Tensor


class DistanceBias(nn.Module):
    """Learned attention bias per head and log-spaced bucket of distance (T5's scheme).

    Half of the buckets hold one exact distance each; the others grow logarithmically and the last
    one holds every distance from `max_distance` on.
    """

    def __init__(self, n_buckets: int, max_distance: int, n_heads: int) -> None:
        super().__init__()
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.weight = nn.Parameter(torch.zeros(n_buckets, n_heads))

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance >= 0."""
        exact = self.n_buckets // 2
        ratio = (distance.clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        far = exact + (ratio * (self.n_buckets - exact)).long()
        return torch.where(distance < exact, distance, far.clamp(max=self.n_buckets - 1))

    def forward(self, distance: Tensor) -> Tensor:
        """Bias (B, H, Q, T) of distances (B, Q, T); where a distance is negative, -inf."""
        bias = self.weight[self.bucket(distance.clamp(min=0))]  # (B, Q, T, H)
        return bias.masked_fill((distance < 0).unsqueeze(-1), -torch.inf).permute(0, 3, 1, 2)


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between them."""

    def __init__(self, size: int, inner_size: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(size, inner_size, bias=False),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(inner_size, size, bias=False),
        )


class EncoderBlock(nn.Module):
    """Self-attention with an additive bias, then a feed-forward layer."""

    def __init__(self, size: int, inner_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention, self.norm_forward = nn.RMSNorm(size), nn.RMSNorm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, D), bias (1 or B, H, T, T) -> (B, T, D)."""
        q, k, v = split_heads(self.qkv(self.norm_attention(x)), 3, self.n_heads)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.dropout(self.out(join_heads(attended)))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))


class Grid(NamedTuple):
    """Where packed tokens (P, D) stand in a grid of B rows, Q queries per row and L levels.

    Tokens that nobody needs (padding, levels that a target's code leaves no choice at) are not
    packed: only attention sees the grid, every other layer works on the P tokens.
    """

    slots: Tensor  # (P,) index into the flattened (B, Q, L) grid
    shape: tuple[int, int, int]

    def spread(self, tokens: Tensor) -> Tensor:
        """(P, X) -> (B*Q*L, X); zeros where no token stands."""
        b, q, levels = self.shape
        return tokens.new_zeros(b * q * levels, tokens.size(1)).index_copy(0, self.slots, tokens)


class DecoderBlock(nn.Module):
    """Causal self-attention over the levels of one target, cross-attention to the history, FFN."""

    def __init__(self, size: int, inner_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_self, self.norm_cross = nn.RMSNorm(size), nn.RMSNorm(size)
        self.norm_forward = nn.RMSNorm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out_self = nn.Linear(size, size, bias=False)
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.out_cross = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size, dropout)
        self.dropout = nn.Dropout(dropout)

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, D/H) of the encoded history (B, T, D)."""
        k, v = split_heads(self.key_value(encoded), 2, self.n_heads)
        return k, v

    def forward(self, x: Tensor, grid: Grid, encoded: Tensor, bias: Tensor) -> Tensor:
        """Packed tokens x (P, D) -> (P, D). encoded (B, T, D); bias (1 or B, H, Q, T)."""
        b, n_queries, n_levels = grid.shape
        qkv = grid.spread(self.qkv(self.norm_self(x))).view(b * n_queries, n_levels, -1)
        q, k, v = split_heads(qkv, 3, self.n_heads)
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)  # (B*Q, H, L, D/H)
        x = x + self.dropout(self.out_self(join_heads(attended).flatten(0, 1)[grid.slots]))

        q = grid.spread(self.query(self.norm_cross(x))).view(b, n_queries * n_levels, -1)
        (q,) = split_heads(q, 1, self.n_heads)
        level_bias = bias.repeat_interleave(n_levels, dim=2).to(q.dtype)  # (., H, Q*L, T)
        attended = scaled_dot_product_attention(q, *self.memory(encoded), attn_mask=level_bias)
        x = x + self.dropout(self.out_cross(join_heads(attended).flatten(0, 1)[grid.slots]))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))

    def step(
        self, x: Tensor, past: Tensor | None, memory: tuple[Tensor, Tensor], bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One level for W beams: x (B, W, D) -> (B, W, D), and the keys and values of all levels so
        far, (B, W, levels, 2*D). bias is (B, H, 1, T)."""
        b, width, size = x.shape
        q, kv = self.qkv(self.norm_self(x)).split([size, 2 * size], dim=-1)
        past = kv.unsqueeze(2) if past is None else torch.cat([past, kv.unsqueeze(2)], dim=2)
        k, v = split_heads(past.flatten(0, 1), 2, self.n_heads)  # (B*W, H, levels, D/H)
        (q,) = split_heads(q.reshape(b * width, 1, size), 1, self.n_heads)
        attended = join_heads(scaled_dot_product_attention(q, k, v)).view(b, width, size)
        x = x + self.out_self(attended)
        (q,) = split_heads(self.query(self.norm_cross(x)), 1, self.n_heads)
        attended = scaled_dot_product_attention(q, *memory, attn_mask=bias.to(q.dtype))
        x = x + self.out_cross(join_heads(attended))
        return x + self.feed_forward(self.norm_forward(x)), past


def split_heads(x: Tensor, parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """(B, S, parts*D) -> `parts` tensors (B, H, S, D/H)."""
    b, s, _ = x.shape
    return x.view(b, s, parts, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, S, D/H) -> (B, S, D)."""
    return x.transpose(1, 2).flatten(2)


