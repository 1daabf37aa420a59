"""Transformer blocks in T5's style: pre-norm, no biases in linear maps and norms, an additive bias
in attention. They know nothing of items, codes or trees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

Tensor = torch.Tensor


class Dropout(nn.Dropout):
    """Dropout that draws 8 bits per element on a CPU, where torch's generator is the bottleneck.

    The probability is then rounded to a multiple of 1/256 and the scale follows the rounded value,
    so the expectation is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        drop = round(self.p * 256)
        if not self.training or drop == 0 or x.device.type != "cpu":
            return super().forward(x)
        bits = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= drop
        return x * (keep * (256 / (256 - drop))).to(x.dtype)


class Norm(nn.LayerNorm):
    """Layer norm without a bias, where T5 has RMSNorm: on a CPU torch composes RMSNorm of several
    operations that take five times as long, a sixth of a training step."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-6, bias=False)


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between them."""

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__(
            nn.Linear(size, inner_size, bias=False),
            nn.ReLU(),
            nn.Linear(inner_size, size, bias=False),
        )


class EncoderBlock(nn.Module):
    """Self-attention with an additive bias, then a feed-forward layer."""

    def __init__(self, size: int, inner_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention, self.norm_forward = Norm(size), Norm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size)
        self.dropout = Dropout(dropout)

    def output_layers(self) -> list[nn.Linear]:
        """The last linear map of every sublayer."""
        return [self.out, self.feed_forward[-1]]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, D), bias (1 or B, H, T, T) -> (B, T, D)."""
        q, k, v = split_heads(self.qkv(self.norm_attention(x)), 3, self.n_heads)
        attended = attend(q, k, v, bias)
        x = x + self.dropout(self.out(join_heads(attended)))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))


@dataclass(frozen=True)
class Tokens:
    """Where the packed decoder tokens (P, D) belong.

    Targets are sorted by how many levels they need, so level l holds the first `counts[l]` of them
    and the packed tokens are these levels one after the other. What nobody needs (padding, levels
    at which a target's code leaves no choice) is not packed and costs nothing.
    """

    counts: list[int]  # targets per level, descending; levels that no target needs are left out
    place: Tensor  # (counts[0],) place of each target in the flattened (B, Q)
    shape: tuple[int, int]  # B rows, Q queries per row

    @cached_property
    def slots(self) -> Tensor:
        """(P,) place of each token in the flattened (B, Q, levels); the same for all layers."""
        levels = len(self.counts)
        return torch.cat([self.place[:n] * levels + i for i, n in enumerate(self.counts)])

    def spread(self, tokens: Tensor) -> Tensor:
        """(P, X) -> (B, Q * levels, X); zeros where no token stands."""
        levels = len(self.counts)
        b, q = self.shape
        grid = tokens.new_zeros(b * q * levels, tokens.size(1))
        return grid.index_copy(0, self.slots, tokens).view(b, q * levels, -1)

    def pack(self, grid: Tensor) -> Tensor:
        """Undo `spread`."""
        return grid.flatten(0, 1).index_select(0, self.slots)


class Places:
    """Where the P tokens of a decoding step stand: `row` (P,), ascending, of `n_rows`.

    Cross-attention works row by row, so tokens are spread to the places that the fullest row needs.
    """

    def __init__(self, row: Tensor, n_rows: int) -> None:
        count = torch.bincount(row, minlength=n_rows)
        self.n_rows, self.width = n_rows, int(count.max())
        rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        full = len(row) == n_rows * self.width
        self.index = None if full else row * self.width + rank

    def spread(self, tokens: Tensor) -> Tensor:
        """(P, D) -> (B, width, D); zeros where no token stands."""
        if self.index is not None:
            grid = tokens.new_zeros(self.n_rows * self.width, tokens.size(1))
            tokens = grid.index_copy(0, self.index, tokens)
        return tokens.view(self.n_rows, self.width, -1)

    def pack(self, grid: Tensor) -> Tensor:
        """Undo `spread`."""
        tokens = grid.flatten(0, 1)
        return tokens if self.index is None else tokens.index_select(0, self.index)


class DecoderBlock(nn.Module):
    """Causal self-attention over the levels of one target, cross-attention to the history, FFN."""

    def __init__(self, size: int, inner_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_self, self.norm_cross = Norm(size), Norm(size)
        self.norm_forward = Norm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out_self = nn.Linear(size, size, bias=False)
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.out_cross = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size)
        self.dropout = Dropout(dropout)

    def output_layers(self) -> list[nn.Linear]:
        """The last linear map of every sublayer."""
        return [self.out_self, self.out_cross, self.feed_forward[-1]]

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, D/H) of the encoded history (B, T, D)."""
        k, v = split_heads(self.key_value(encoded), 2, self.n_heads)
        return k, v

    def forward(self, x: Tensor, tokens: Tokens, encoded: Tensor, bias: Tensor) -> Tensor:
        """Packed tokens x (P, D) -> (P, D). encoded (B, T, D); bias (1 or B, H, Q, T)."""
        qkv = self.qkv(self.norm_self(x)).view(len(x), 3, self.n_heads, -1)
        attended = attend_levels(*qkv.unbind(1), tokens.counts)
        x = x + self.dropout(self.out_self(attended.flatten(1)))

        (q,) = split_heads(tokens.spread(self.query(self.norm_cross(x))), 1, self.n_heads)
        bias = bias.repeat_interleave(len(tokens.counts), dim=2)  # (., H, Q*levels, T)
        attended = tokens.pack(join_heads(attend(q, *self.memory(encoded), bias)))
        x = x + self.dropout(self.out_cross(attended))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))

    def step(
        self,
        x: Tensor,
        past: list[Tensor],
        ancestors: list[Tensor],
        places: Places,
        memory: tuple[Tensor, Tensor],
        bias: Tensor,
    ) -> Tensor:
        """One level for the P tokens of all beams that still have a choice: x (P, D) -> (P, D).

        `past` holds the keys and values (P_l, 2*D) of each level so far and gets this level's
        appended. They stay where they are when beams are reordered; `ancestors` (P,) says per level
        which of its tokens is a beam's. bias is (B, H, 1, T).
        """
        size, n_heads = x.size(-1), self.n_heads
        q, kv = self.qkv(self.norm_self(x)).split([size, 2 * size], dim=-1)
        past.append(kv)
        keys_values = [kept[rows] for kept, rows in zip(past, ancestors, strict=False)] + [kv]
        k, v = torch.stack(keys_values, dim=1).unflatten(-1, (2, n_heads, -1)).unbind(2)
        x = x + self.out_self(attend_few(q.unflatten(-1, (n_heads, -1)), k, v).flatten(1))
        (q,) = split_heads(places.spread(self.query(self.norm_cross(x))), 1, n_heads)
        attended = scaled_dot_product_attention(q, *memory, attn_mask=bias.to(q.dtype))
        x = x + self.out_cross(places.pack(join_heads(attended)))
        return x + self.feed_forward(self.norm_forward(x))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of q (B, H, Q, D/H) over k, v (B, H, T, D/H) with an additive bias.

    On a CPU in training, plain products are faster than torch's fused kernel with a learned mask.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores + bias.to(q.dtype), dim=-1) @ v


def attend_levels(q: Tensor, k: Tensor, v: Tensor, counts: list[int]) -> Tensor:
    """Causal attention among the few levels of each target, packed level by level: (P, H, D/H)."""
    ks, vs, result = k.split(counts), v.split(counts), [v[: counts[0]]]
    for level, query in list(enumerate(q.split(counts)))[1:]:
        n = counts[level]
        keys = torch.stack([key[:n] for key in ks[: level + 1]], dim=1)
        values = torch.stack([value[:n] for value in vs[: level + 1]], dim=1)
        result.append(attend_few(query, keys, values))
    return torch.cat(result)


def attend_few(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one query each, q (n, H, D/H), over few keys, k and v (n, S, H, D/H).

    Products of such small matrices are memory-bound, so they are written element by element.
    """
    scores = (k * (q * q.size(-1) ** -0.5).unsqueeze(1)).sum(-1, keepdim=True)
    return (torch.softmax(scores, dim=1) * v).sum(1)


def split_heads(x: Tensor, parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """(B, S, parts*D) -> `parts` tensors (B, H, S, D/H)."""
    b, s, _ = x.shape
    return x.reshape(b, s, parts, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, S, D/H) -> (B, S, D)."""
    return x.transpose(1, 2).flatten(2)
