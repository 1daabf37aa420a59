"""Building blocks against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv1d, pad, scaled_dot_product_attention

from recbole_mscgrec.network.blocks import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    ShortConvolution,
    attend,
    attend_levels,
)
from recbole_mscgrec.network.unpad import LevelSlots, Slots


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_dropout_keeps_the_expectation_and_drops_the_stated_share(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(1_000_000))
    share = round(p * 256) / 256
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.005)
    assert dropped.unique().numel() == 2  # zero, or one and the same scale


def test_dropout_of_nearly_everything_keeps_one_in_256() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.999)(torch.ones(1_000_000))
    assert dropped.unique().tolist() == [0, 256]
    assert float((dropped > 0).float().mean()) == pytest.approx(1 / 256, abs=0.001)


def test_dropout_draws_every_element_by_itself() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.5)(torch.ones(4000, 37)) == 0
    assert float(dropped.float().mean(0).std()) < 0.02
    together = (dropped[:, 0] & dropped[:, 8]).float().mean()  # eight elements share a draw of bits
    assert float(together) == pytest.approx(0.25, abs=0.04)


def test_dropout_in_evaluation_and_with_zero_probability_is_the_identity() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_scales_the_gradient_as_the_value() -> None:
    x = torch.ones(100, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_attend_in_training_equals_torchs_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 3, 5, 5, generator=generator)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attend(q, k, v, bias), expected)


def test_attend_levels_equals_causal_attention_of_each_target() -> None:
    counts, generator = [5, 3, 2], torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sum(counts), 2, 4, generator=generator) for _ in range(3))
    found = attend_levels(q, k, v, counts).split(counts)
    for target in range(5):
        n_levels = sum(target < n for n in counts)
        mine = [
            torch.stack([part.split(counts)[level][target] for level in range(n_levels)], dim=1)
            for part in (q, k, v)
        ]  # (H, levels, D/H) each
        expected = scaled_dot_product_attention(*mine, is_causal=True)
        for level in range(n_levels):
            torch.testing.assert_close(found[level][target], expected[:, level])


def test_encoder_block_is_causal_under_a_causal_bias() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(8, 16, 2, 0.0).eval()
    bias = torch.full((6, 6), -torch.inf).triu(1).expand(1, 2, 6, 6)
    x, slots = torch.randn(6, 8), Slots(None, 1, 6)
    changed = x.clone()
    changed[4:] += 1
    before, after = block(x, slots, bias), block(changed, slots, bias)
    torch.testing.assert_close(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:])


def test_decoder_step_by_step_equals_all_levels_at_once() -> None:
    torch.manual_seed(0)
    block = DecoderBlock(8, 16, 2, 0.0).eval()
    encoded, bias = torch.randn(3, 5, 8), torch.randn(3, 2, 1, 5)
    x = torch.randn(3, 4, 8)  # one target per row, four levels
    slots = LevelSlots([3] * 4, torch.arange(3), (3, 1))
    at_once = block(x.transpose(0, 1).flatten(0, 1), slots, encoded, bias).split(3)
    past: list[torch.Tensor] = []
    for level in range(4):
        own = [torch.arange(3)] * level
        slots = Slots.by_row(torch.arange(3), 3)
        out = block.step(x[:, level], past, own, slots, block.memory(encoded), bias)
        torch.testing.assert_close(out, at_once[level], rtol=1e-4, atol=1e-5)


def test_decoder_step_of_several_beams_equals_each_beam_alone() -> None:
    """Two rows; the first has two beams, of which the second level exchanges the order."""
    torch.manual_seed(0)
    block = DecoderBlock(8, 16, 2, 0.0).eval()
    encoded, bias = torch.randn(2, 5, 8), torch.randn(2, 2, 1, 5)
    memory, x = block.memory(encoded), torch.randn(2, 3, 8)
    row, parents = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 2])
    past: list[torch.Tensor] = []
    block.step(x[0], past, [], Slots.by_row(row, 2), memory, bias)
    found = block.step(x[1], past, [parents], Slots.by_row(row, 2), memory, bias)
    for beam in range(3):
        r, alone = int(row[beam]), []
        memory_1 = block.memory(encoded[r : r + 1])
        one = Slots.by_row(torch.tensor([0]), 1)
        parent = int(parents[beam])
        block.step(x[0, parent : parent + 1], alone, [], one, memory_1, bias[r : r + 1])
        line = [torch.tensor([0])]
        out = block.step(x[1, beam : beam + 1], alone, line, one, memory_1, bias[r : r + 1])
        torch.testing.assert_close(found[beam], out[0], rtol=1e-4, atol=1e-5)


def test_the_short_convolution_is_torchs_and_sees_no_later_item() -> None:
    x, convolution = torch.randn(2, 7, 5, dtype=torch.double), ShortConvolution(5, 4).double()
    assert float(convolution(x).detach().abs().max()) == 0  # at first
    torch.nn.init.normal_(convolution.weight)
    before = pad(x.transpose(1, 2), (3, 0))
    expected = conv1d(before, convolution.weight.T.unsqueeze(1), groups=5).transpose(1, 2)
    torch.testing.assert_close(convolution(x), expected)
    changed = x.index_fill(1, torch.tensor([4]), 0.0)
    different = (convolution(changed) != convolution(x)).any(-1).any(0)
    assert different.tolist() == [False] * 4 + [True] * 3


def test_a_block_adds_the_convolution_row_by_row() -> None:
    torch.manual_seed(0)
    block, plain = EncoderBlock(8, 16, 2, 0.0, kernel_size=2), EncoderBlock(8, 16, 2, 0.0)
    plain.load_state_dict(block.state_dict(), strict=False)
    needed = torch.tensor([[True, True, False], [True, True, True]])
    slots, bias = Slots.where(needed), torch.zeros(1, 2, 3, 3)
    x = torch.randn(5, 8)
    torch.testing.assert_close(block(x, slots, bias), plain(x, slots, bias))
    torch.nn.init.ones_(block.convolution.weight)  # the sum of two tokens
    normed = block.norm_convolution(x)
    before = torch.stack([normed[0] * 0, normed[0], normed[0] * 0, normed[2], normed[3]])
    torch.testing.assert_close(block(x, slots, bias), plain(x + normed + before, slots, bias))
