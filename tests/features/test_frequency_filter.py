"""The causal frequency filter is the FFT of each prefix, at its last position."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_mscgrec.features.frequency_filter import (
    FilteredAttention,
    FrequencyFilter,
    low_pass_kernel,
)

Tensor = torch.Tensor
LENGTH = 12


def low_pass(sequence: Tensor, n_lowest: int) -> Tensor:
    """The lowest frequencies of a sequence (B, T, D), by an FFT along T."""
    spectrum = torch.fft.rfft(sequence, dim=1)
    spectrum[:, n_lowest // 2 + 1 :] = 0
    return torch.fft.irfft(spectrum, n=sequence.size(1), dim=1)


@pytest.mark.parametrize("n_lowest", [1, 2, 3, 5, 12, 99])
@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])
def test_every_position_equals_the_fft_of_its_own_prefix(length: int, n_lowest: int) -> None:
    torch.manual_seed(0)
    layer = FrequencyFilter(4, length, n_lowest, dropout_prob=0.0, eps=1e-12)
    hidden = torch.randn(3, length, 4)
    output = layer(hidden)
    for t in range(length):
        prefix = torch.zeros_like(hidden)  # padded in front, as in the original
        prefix[:, length - t - 1 :] = hidden[:, : t + 1]
        low = low_pass(prefix, n_lowest)
        filtered = low + layer.sqrt_beta**2 * (prefix - low)
        expected = nn.functional.layer_norm(filtered + prefix, (4,))[:, -1]
        torch.testing.assert_close(output[:, t], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(hidden[:, :5]), output[:, :5])


def test_one_frequency_is_the_mean_and_all_are_the_sequence() -> None:
    torch.testing.assert_close(low_pass_kernel(8, 1), torch.full((8,), 1 / 8))
    torch.testing.assert_close(low_pass_kernel(8, 9), torch.eye(8)[0], atol=1e-6, rtol=0)
    assert torch.equal(low_pass_kernel(50, 4), low_pass_kernel(50, 5))
    assert not torch.equal(low_pass_kernel(50, 5), low_pass_kernel(50, 6))


def test_the_share_weighs_filter_and_attention() -> None:
    class Attention(nn.Module):
        def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
            return hidden * mask

    hidden, mask = torch.randn(2, 5, 4), torch.tensor(3.0)
    sizes = {"size": 4, "length": LENGTH, "n_lowest": 3, "dropout_prob": 0.0, "eps": 1e-12}
    mixed = FilteredAttention(Attention(), share=0.7, **sizes)
    expected = 0.7 * mixed.filter(hidden) + 0.3 * 3.0 * hidden
    torch.testing.assert_close(mixed(hidden, mask), expected)
    assert "filter.low_pass" not in mixed.state_dict()  # it follows from the settings
