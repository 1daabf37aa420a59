"""Transformer blocks as in T5: pre-norm, no bias in linear maps and norms, additive attention bias.
They do not depend on items, codes or trees."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

from recbole_mscgrec.network.block_attention import Windows, attend_windows
from recbole_mscgrec.network.unpad import LevelSlots, Slots
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


class Dropout(nn.Dropout):
    """Dropout that draws 8 bits per element on a CPU, where torch's generator is the bottleneck.

    The probability is then rounded to a multiple of 1/256. The scale uses the rounded value, so the
    expectation is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        drop = min(round(self.p * 256), 255)
        if not self.training or drop == 0 or x.device.type != "cpu":
            return super().forward(x)
        bits = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= drop
        return x * (keep * (256 / (256 - drop))).to(x.dtype)


class Norm(nn.LayerNorm):
    """Layer norm without a bias. T5 uses RMSNorm, but on a CPU torch computes it with several
    operations, which take five times as long, a sixth of a training step."""

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

    @property
    def out(self) -> nn.Linear:
        """The second linear map."""
        return cast(nn.Linear, self[-1])


class ShortConvolution(nn.Module):
    """Causal depthwise convolution along a history: each output is a weighted sum of the last few
    tokens, with a learned weight per offset and dimension. The weights are initialized to zero.

    Args:
        size: D.
        kernel_size: number of tokens in the sum, including the current one.
    """

    def __init__(self, size: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(kernel_size, size))  # last row: the current token

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D). Sums of shifted products take half the time of torch's
        convolution on a CPU."""
        before = len(self.weight) - 1
        padded = pad(x, (0, 0, before, 0))
        result = x * self.weight[before]
        for place in range(before):
            result = torch.addcmul(result, padded[:, place : place + x.size(1)], self.weight[place])
        return result


class EncoderBlock(nn.Module):
    """An optional short convolution, then self-attention with an additive bias, then a feed-forward
    layer.

    The convolution is not part of the paper. It learns the order of the last items more easily than
    attention does.
    """

    def __init__(
        self, size: int, inner_size: int, n_heads: int, dropout: float, kernel_size: int = 0
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.convolution = ShortConvolution(size, kernel_size) if kernel_size else None
        self.norm_convolution = Norm(size) if kernel_size else None
        self.norm_attention, self.norm_forward = Norm(size), Norm(size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size)
        self.dropout = Dropout(dropout)

    def output_layers(self) -> list[nn.Linear]:
        """The last linear map of every sublayer."""
        return [self.out, self.feed_forward.out]

    def forward(
        self, x: Tensor, slots: Slots, bias: Tensor, windows: Windows | None = None
    ) -> Tensor:
        """Packed tokens (P, D) -> (P, D).

        Args:
            slots: positions of the tokens in the grid (B, T).
            bias: (1 or B, H, T, T).
            windows: only for causal attention; None: attention uses the bias alone.
        """
        if self.convolution is not None and self.norm_convolution is not None:
            history = slots.spread_needed(self.norm_convolution(x))
            x = x + self.dropout(slots.pack(self.convolution(history)))
        qkv = slots.spread(self.qkv(self.norm_attention(x)))
        q, k, v = split_heads(qkv, 3, self.n_heads)
        attended = join_heads(attend(q, k, v, bias, windows))
        x = x + self.dropout(self.out(slots.pack(attended)))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention over the levels of a target, then cross-attention to the history, then
    a feed-forward layer."""

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
        return [self.out_self, self.out_cross, self.feed_forward.out]

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, D/H) of the encoded history (B, T, D)."""
        k, v = split_heads(self.key_value(encoded), 2, self.n_heads)
        return k, v

    def forward(
        self,
        x: Tensor,
        slots: LevelSlots,
        encoded: Tensor,
        bias: Tensor,
        windows: Windows | None = None,
    ) -> Tensor:
        """Packed tokens (P, D) -> (P, D).

        Args:
            slots: positions of the tokens in the grid (B, Q * levels).
            encoded: (B, T, D).
            bias: (1 or B, H, Q, T).
            windows: only if query t sees the history up to item t.
        """
        q, k, v = self.qkv(self.norm_self(x)).unflatten(-1, (3, self.n_heads, -1)).unbind(1)
        attended = attend_levels(q, k, v, slots.counts)
        x = x + self.dropout(self.out_self(attended.flatten(1)))

        (q,) = split_heads(slots.spread(self.query(self.norm_cross(x))), 1, self.n_heads)
        attended = slots.pack(join_heads(attend(q, *self.memory(encoded), bias, windows)))
        x = x + self.dropout(self.out_cross(attended))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))

    def step(
        self,
        x: Tensor,
        past: list[Tensor],
        ancestors: list[Tensor],
        slots: Slots,
        memory: tuple[Tensor, Tensor],
        bias: Tensor,
    ) -> Tensor:
        """One level of decoding, for the beams that still have a choice: x (P, D) -> (P, D).

        `past` holds the keys and values (P_l, 2*D) of the earlier levels; those of this level are
        appended. They are not moved when beams are reordered. Instead, `ancestors`, (P,) for each
        earlier level, names the token of that level that a beam descends from. bias is
        (B, H, 1, T).
        """
        size, n_heads = x.size(-1), self.n_heads
        q, kv = self.qkv(self.norm_self(x)).split([size, 2 * size], dim=-1)
        past.append(kv)
        keys_values = [kept[rows] for kept, rows in zip(past, ancestors, strict=False)] + [kv]
        k, v = torch.stack(keys_values, dim=1).unflatten(-1, (2, n_heads, -1)).unbind(2)
        x = x + self.out_self(attend_few(q.unflatten(-1, (n_heads, -1)), k, v).flatten(1))
        (q,) = split_heads(slots.spread(self.query(self.norm_cross(x))), 1, n_heads)
        x = x + self.out_cross(slots.pack(join_heads(attend(q, *memory, bias))))
        return x + self.feed_forward(self.norm_forward(x))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, windows: Windows | None = None) -> Tensor:
    """Attention of q (B, H, Q * S, D/H) over k, v (B, H, T, D/H) with an additive bias (1 or B, 1
    or H, Q or Q * S, T). If the bias has Q rows of queries, the S queries of a position share one.

    On a CPU, in training or in bfloat16, plain matrix products are faster than torch's fused kernel
    with a mask, and attention by blocks of `windows` is faster than both.
    """
    if windows is not None:
        return attend_windows(q, k, v, bias, windows)
    bias = bias.to(q.dtype)
    if bias.size(2) > 1:  # a single row is broadcast to all queries
        bias = bias.repeat_interleave(q.size(2) // bias.size(2), dim=2)
    plain = torch.is_grad_enabled() or q.dtype == torch.bfloat16
    if q.device.type != "cpu" or not plain:
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores + bias, dim=-1) @ v


def attend_levels(q: Tensor, k: Tensor, v: Tensor, counts: list[int]) -> Tensor:
    """Causal attention among the few levels of each target. All tensors are packed level by level:
    (P, H, D/H), with counts[l] tokens of level l."""
    ks, vs, result = k.split(counts), v.split(counts), [v[: counts[0]]]
    for level, query in list(enumerate(q.split(counts)))[1:]:
        n = counts[level]
        keys = torch.stack([key[:n] for key in ks[: level + 1]], dim=1)
        values = torch.stack([value[:n] for value in vs[: level + 1]], dim=1)
        result.append(attend_few(query, keys, values))
    return torch.cat(result)


def attend_few(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of single queries q (n, H, D/H), each over a few keys, k and v (n, S, H, D/H).

    Such small matrix products are memory-bound, so they are computed as element-wise products and
    sums.
    """
    scores = (k * (q * q.size(-1) ** -0.5).unsqueeze(1)).sum(-1, keepdim=True)
    return (torch.softmax(scores, dim=1) * v).sum(1)


def check_heads(size: int, n_heads: int, of: tuple[str, str] = ("hidden_size", "n_heads")) -> None:
    """Raise UserError for a width that cannot be split into this number of heads; `of` holds the
    names of both settings."""
    if size % n_heads:
        raise UserError(f"{of[0]} ({size}) must be a multiple of {of[1]} ({n_heads}).")


def split_heads(x: Tensor, parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """(B, S, parts*D) -> `parts` tensors (B, H, S, D/H)."""
    b, s, _ = x.shape
    return x.reshape(b, s, parts, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, S, D/H) -> (B, S, D)."""
    return x.transpose(1, 2).flatten(2)
