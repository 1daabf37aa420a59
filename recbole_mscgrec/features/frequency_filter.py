"""The frequency filter of BSARec, in a causal form (Shin et al., "An Attentive Inductive Bias for
Sequential Recommendation beyond the Self-Attention", AAAI 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


def low_pass_kernel(length: int, n_lowest: int) -> Tensor:
    """The weights (length,) of a low-pass filter for the last position of a sequence.

    The low-pass part of a circular sequence x (length,) is `irfft(rfft(x)[: n_lowest // 2 + 1])`.
    At the last position it equals the sum of kernel[d] * x[length - 1 - d] over all distances d.

    Args:
        length: number of positions of the sequence.
        n_lowest: how many of the lowest frequencies are kept. The constant is one; the others come
            in pairs of a sine and a cosine, so an even number keeps as many as the next odd one.
    """
    kept = torch.zeros(length // 2 + 1)
    kept[: n_lowest // 2 + 1] = 1.0
    return torch.fft.irfft(kept, n=length)


class FrequencyFilter(nn.Module):
    """Scales the high frequencies of a sequence by a learned factor per dimension.

    Position t sees only the history up to t: its low-pass part is that of the sequence that ends at
    t, padded with zeros in front to `length` positions. So every position gets the output that an
    FFT of its own prefix would give to the last position.

    Args:
        size: D, width of the sequence.
        length: the longest history.
        n_lowest: number of low frequencies, see `low_pass_kernel`.
        dropout_prob: dropout before the residual connection.
        eps: epsilon of the layer norm after it.
    """

    low_pass: Tensor

    def __init__(
        self, size: int, length: int, n_lowest: int, dropout_prob: float, eps: float
    ) -> None:
        super().__init__()
        back = torch.arange(length).unsqueeze(1) - torch.arange(length)  # from row to column
        kernel = low_pass_kernel(length, n_lowest)[back.clamp(min=0)]
        self.register_buffer("low_pass", kernel.masked_fill(back < 0, 0.0), persistent=False)
        self.sqrt_beta = nn.Parameter(torch.randn(size))
        self.dropout, self.norm = nn.Dropout(dropout_prob), nn.LayerNorm(size, eps=eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """The filtered sequence (B, T, D), with residual connection and layer norm. T is at most
        `length`."""
        n = hidden.size(1)
        low = self.low_pass[:n, :n] @ hidden
        filtered = low + self.sqrt_beta**2 * (hidden - low)
        normed: Tensor = self.norm(hidden + self.dropout(filtered))
        return normed


class FilteredAttention(nn.Module):
    """Replaces an attention sublayer by the weighted mean of this sublayer and a frequency filter.

    Args:
        attention: called with the sequence (B, T, D) and a mask.
        share: weight of the filter, from 0 to 1.
        filter_args: arguments of `FrequencyFilter`.
    """

    def __init__(self, attention: nn.Module, share: float, **filter_args: Any) -> None:
        super().__init__()
        self.attention, self.share = attention, share
        self.filter = FrequencyFilter(**filter_args)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The output of the sublayer: (B, T, D)."""
        return torch.lerp(self.attention(hidden, mask), self.filter(hidden), self.share)
