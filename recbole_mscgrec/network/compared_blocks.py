"""Encoder layers that are compared with those of blocks.py."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import silu

from recbole_mscgrec.network.block_attention import Windows
from recbole_mscgrec.network.blocks import (
    Dropout,
    EncoderBlock,
    FeedForward,
    Norm,
    ShortConvolution,
    join_heads,
    split_heads,
)
from recbole_mscgrec.network.unpad import Slots

Tensor = torch.Tensor
GATED, RECURRENT = "gated", "recurrent"


def encoder_layers(
    kind: str, n_layers: int, block: tuple[int, int, int, float], kernel_size: int
) -> nn.ModuleList:
    """The layers of an encoder; `block` holds the first four arguments of EncoderBlock."""
    layer = GatedBlock if kind == GATED else EncoderBlock
    layers: list[nn.Module] = [layer(*block, kernel_size) for _ in range(n_layers)]
    if kind == RECURRENT:
        layers[0] = RecurrentBlock(*block[:2], block[3])
    return nn.ModuleList(layers)


class GatedBlock(nn.Module):
    """A short convolution, if there is one, then a gated attention unit as in HSTU: attention with
    a SiLU in place of the softmax, its result normalized and multiplied by a gate. There is no
    feed-forward layer.

    It is compared with EncoderBlock and takes the same arguments.
    """

    def __init__(
        self, size: int, inner_size: int, n_heads: int, dropout: float, kernel_size: int = 0
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.convolution = ShortConvolution(size, kernel_size) if kernel_size else None
        self.norm_convolution = Norm(size) if kernel_size else None
        self.norm_attention, self.norm_gated = Norm(size), Norm(size)
        self.gate = nn.Linear(size, size, bias=False)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.dropout = Dropout(dropout)

    def output_layers(self) -> list[nn.Linear]:
        """The last linear map of every sublayer."""
        return [self.out]

    def forward(
        self, x: Tensor, slots: Slots, bias: Tensor, windows: Windows | None = None
    ) -> Tensor:
        """As EncoderBlock."""
        if self.convolution is not None and self.norm_convolution is not None:
            history = slots.spread_needed(self.norm_convolution(x))
            x = x + self.dropout(slots.pack(self.convolution(history)))
        normal = self.norm_attention(x)
        q, k, v = split_heads(slots.spread(silu(self.qkv(normal))), 3, self.n_heads)
        hidden = bias == -torch.inf
        scores = q @ k.transpose(-1, -2) * q.size(-1) ** -0.5 + bias.masked_fill(hidden, 0)
        attended = join_heads(silu(scores).masked_fill(hidden, 0) @ v)
        gated = self.norm_gated(slots.pack(attended)) * silu(self.gate(normal))
        return x + self.dropout(self.out(gated))


class RecurrentBlock(nn.Module):
    """A GRU along the history, then a feed-forward layer; takes the arguments of EncoderBlock."""

    def __init__(self, size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.norm_recurrent, self.norm_forward = Norm(size), Norm(size)
        self.gru = nn.GRU(size, size, batch_first=True)
        self.out = nn.Linear(size, size, bias=False)
        self.feed_forward = FeedForward(size, inner_size)
        self.dropout = Dropout(dropout)

    def output_layers(self) -> list[nn.Linear]:
        """The last linear map of every sublayer."""
        return [self.out, self.feed_forward.out]

    def forward(
        self, x: Tensor, slots: Slots, bias: Tensor, windows: Windows | None = None
    ) -> Tensor:
        """As EncoderBlock; the order of the tokens says all that the bias says."""
        states, _ = self.gru(slots.spread_needed(self.norm_recurrent(x)))
        x = x + self.dropout(self.out(slots.pack(states)))
        return x + self.dropout(self.feed_forward(self.norm_forward(x)))
