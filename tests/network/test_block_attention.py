"""Attention by blocks: the same values and gradients as all at once."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.network import block_attention
from recbole_mscgrec.network.block_attention import Windows, attend_windows
from recbole_mscgrec.network.blocks import attend

Tensor = torch.Tensor
LENGTHS = [9, 3, 0, 14, 14, 6]


def operands(queries: int, keys: int, bias_shape: tuple[int, ...]) -> list[Tensor]:
    """q, k, v of 6 rows of 14 items in 2 heads, and a bias that hides the future."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 2, 14 * n, 4) for n in (queries, keys, keys)]
    q, k, v, bias = (torch.randn(s, generator=generator) for s in [*shapes, bias_shape])
    item_of_query = torch.arange(bias.size(2)) * 14 // bias.size(2)
    future = torch.arange(14 * keys) // keys > item_of_query.unsqueeze(1)
    return [q, k, v, bias.masked_fill(future, -torch.inf)]


def at_items(queries: int) -> Tensor:
    """(6, 1, 14 * queries, 1): 1 where a query stands for an item of its row."""
    real = torch.arange(14) < torch.tensor(LENGTHS).unsqueeze(1)
    return real.repeat_interleave(queries, dim=1)[:, None, :, None].float()


@pytest.mark.parametrize("scores", [1, 300, 2**18])
@pytest.mark.parametrize(
    ("queries", "keys", "bias_shape"),
    [
        (1, 1, (1, 2, 14, 14)),  # encoder, a token per item
        (3, 3, (6, 2, 42, 42)),  # encoder, a token per code, some of them hidden
        (4, 1, (1, 2, 14, 14)),  # decoder
        (4, 3, (1, 1, 14, 42)),  # decoder without a learned bias
    ],
)
def test_blocks_give_what_plain_attention_gives(
    monkeypatch: pytest.MonkeyPatch,
    queries: int,
    keys: int,
    bias_shape: tuple[int, ...],
    scores: int,
) -> None:
    monkeypatch.setattr(block_attention, "_SCORES", scores)
    results = []
    for windows in (None, Windows(LENGTHS, keys)):
        leaves = [t.clone().requires_grad_() for t in operands(queries, keys, bias_shape)]
        out = attend(*leaves, windows) * at_items(queries)
        (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for name, plain, by_blocks in zip("out q k v bias".split(), *results, strict=True):
        torch.testing.assert_close(by_blocks, plain, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_costs_no_scores() -> None:
    blocks = list(block_attention._blocks([200, 3, 0, 3, 3], 1, 4, 4))
    scores = sum(
        (b.rows.stop - b.rows.start) * (b.queries.stop - b.queries.start) * b.keys.stop
        for b in blocks
    )
    assert scores < 0.7 * 200 * 800  # of five rows of 200 x 800, and little above the half of one
    covered = [set() for _ in range(5)]
    for b in blocks:
        for row in range(b.rows.start, b.rows.stop):
            covered[row] |= set(range(b.queries.start // 4, b.queries.stop // 4))
    assert [len(c) for c in covered] == [200, 3, 3, 3, 3]


def test_lengths_are_those_of_the_rows() -> None:
    item_seq = torch.tensor([[3, 1, 2], [5, 0, 0], [0, 0, 0]])
    assert Windows.of(item_seq, 2) == Windows([3, 1, 0], 2)


def test_blocks_only_where_they_are_faster() -> None:
    short, long = torch.ones(2, 64, dtype=torch.long), torch.ones(2, 65, dtype=torch.long)
    assert Windows.where_faster(short) is None
    assert Windows.where_faster(long) == Windows([65, 65])
    assert Windows.where_faster(short, 2) == Windows([64, 64], 2)


def test_works_under_autocast() -> None:
    q, k, v, bias = (t.requires_grad_() for t in operands(2, 1, (1, 2, 14, 14)))
    plain = attend(q, k, v, bias) * at_items(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend_windows(*(t.bfloat16() for t in (q, k, v)), bias, Windows(LENGTHS))
        out = out * at_items(2)
    out.sum().backward()
    torch.testing.assert_close(out.float(), plain, atol=0.05, rtol=0.05)
    assert all(torch.isfinite(t.grad).all() for t in (q, k, v, bias))
