"""Gated attention units and the GRU against their definitions."""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, silu

from recbole_mscgrec.network.compared_blocks import GatedBlock, RecurrentBlock, encoder_layers
from recbole_mscgrec.network.unpad import Slots


def test_a_gated_unit_is_attention_with_a_silu_and_a_gate() -> None:
    torch.manual_seed(0)
    block, x, bias = GatedBlock(8, 0, 2, 0.0), torch.randn(3, 8), torch.randn(1, 2, 3, 3)
    normal = layer_norm(x, (8,), eps=1e-6)
    q, k, v = silu(normal @ block.qkv.weight.T).split(8, dim=1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        weights = silu(q[:, part] @ k[:, part].T / 2 + bias[0, head]).tril()
        heads.append(weights @ v[:, part])
    gated = layer_norm(torch.cat(heads, dim=1), (8,), eps=1e-6) * silu(normal @ block.gate.weight.T)
    causal = bias.masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    out = block(x, Slots(None, 1, 3), causal)
    torch.testing.assert_close(out, x + gated @ block.out.weight.T)


def test_a_recurrent_encoder_begins_with_a_gru() -> None:
    torch.manual_seed(0)
    first, second = encoder_layers("recurrent", 2, (8, 16, 2, 0.0), 0)
    assert isinstance(first, RecurrentBlock) and not isinstance(second, RecurrentBlock)
    x = torch.randn(3, 8)
    states, _ = first.gru(layer_norm(x, (8,), eps=1e-6).unsqueeze(0))
    middle = x + states[0] @ first.out.weight.T
    expected = middle + first.feed_forward(layer_norm(middle, (8,), eps=1e-6))
    torch.testing.assert_close(first(x, Slots(None, 1, 3), torch.zeros(1)), expected)
