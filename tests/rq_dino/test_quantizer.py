"""Residual quantizer in a network: gradients, running means, restarts."""

from __future__ import annotations

import pytest
import torch
from tiny import dino_settings

from recbole_mscgrec.rq_dino.quantizer import ResidualVQ, perplexities


def quantizer(**changes: object) -> ResidualVQ:
    """Two levels of two numbers: corners of a square, then small steps."""
    made = ResidualVQ([2, 2], 2, dino_settings(**changes))
    made._set(0, torch.tensor([[0.0, 0.0], [10.0, 0.0]]), torch.ones(2))
    made._set(1, torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.ones(2))
    made.started.fill_(True)
    return made


def test_codes_and_sums_of_codewords() -> None:
    out = quantizer()(torch.tensor([[9.0, 2.0], [1.0, -3.0]]))
    assert out.codes.tolist() == [[1, 0], [0, 1]]
    assert out.vectors.tolist() == [[10.0, 1.0], [0.0, -1.0]]
    assert torch.equal(out.straight_through, out.vectors)
    after_first = (1 + 4 + 1 + 9) / 4
    after_second = (1 + 1 + 1 + 4) / 4
    assert float(out.commitment) == pytest.approx((after_first + after_second) / 2)


def test_gradients_pass_straight_through() -> None:
    z = torch.tensor([[9.0, 2.0], [1.0, -3.0]], requires_grad=True)
    weight = torch.tensor([[2.0, -1.0], [0.5, 4.0]])
    (quantizer()(z).straight_through * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_commitment_pulls_towards_the_codewords() -> None:
    z = torch.tensor([[9.0, 2.0]], requires_grad=True)
    quantizer()(z).commitment.backward()
    # Both sums of codewords are constants: the mean over two levels of 2 (z - sum) / 2.
    expected = ((z - torch.tensor([[10.0, 0.0]])) + (z - torch.tensor([[10.0, 1.0]]))) / 2
    assert torch.allclose(z.grad, expected.detach())


def test_codebooks_are_running_means() -> None:
    made = quantizer(codebook_decay=0.5, restart_below=0.0)
    z = torch.tensor([[8.0, 0.0], [1.0, 2.0]])
    codes = made(z).codes
    assert codes.tolist() == [[1, 0], [0, 0]]
    assert made.update(z, codes) == 0
    # Totals and counts move half-way: (0 + 1, 0 + 2) / (1 + 1) and (10 + 8, 0) / (1 + 1).
    assert made.codebooks[0].tolist() == [[0.5, 1.0], [9.0, 0.0]]
    # The residuals of level 2 are taken from the codewords that quantized: (-2, 0) and (1, 2).
    assert torch.allclose(made.codebooks[1][0], torch.tensor([-1.0, 3.0]) / 3)
    assert made.codebooks[1][1].tolist() == [0.0, -1.0]


def test_dead_codewords_restart_with_their_running_means() -> None:
    made = quantizer(codebook_decay=0.5, restart_below=0.6)
    z = torch.tensor([[1.0, 1.0], [1.5, 1.0], [1.0, 1.0], [1.5, 1.0]])
    torch.manual_seed(0)
    codes = made(z).codes
    assert made.update(z, codes) == 2  # nothing chose (10, 0) and (0, -1)
    restarted = made.codebooks[0][1]
    assert any(torch.equal(restarted, row) for row in z)
    assert float(made.count0[1]) == 2.0 and torch.equal(made.total0[1], 2 * restarted)
    used = made(z).codes[:, 0]
    assert 1 in used.tolist()


def test_start_is_k_means_on_all_vectors() -> None:
    made = ResidualVQ([3, 2], 2, dino_settings())
    assert not made.ready
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    noise = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    made.start((centres.unsqueeze(1) + noise).reshape(6, 2), seed=0, batch_size=12)
    assert made.ready
    order = made.codebooks[0].sum(1) + made.codebooks[0][:, 0]
    assert torch.equal(made.codebooks[0][order.argsort()], centres[[0, 2, 1]])
    assert made.count0.tolist() == [4, 4, 4] and made.count1.tolist() == [6, 6]
    assert sorted(made.codebooks[1].tolist()) == [[0, -1], [0, 1]]


def test_perplexity() -> None:
    even, one = torch.tensor([3, 3, 3, 3]), torch.tensor([0, 7, 0])
    assert perplexities([even, one]) == pytest.approx([4.0, 1.0])
