"""Softmax over a large catalogue: in blocks equal to the plain form, and sampled without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from recbole_mscgrec.features import item_softmax
from recbole_mscgrec.features.item_softmax import (
    FULL_UP_TO,
    N_NEGATIVES,
    NegativeSampler,
    Similarity,
    item_cross_entropy,
    n_sampled,
)

Tensor = torch.Tensor


def inputs(n: int = 37, n_items: int = 101) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 8, generator=generator, requires_grad=True)
    weight = torch.randn(n_items, 8, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(n_items, (n,), generator=generator)


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of)


@pytest.mark.parametrize("block", [(8, 16), (64, 7), (1, 200)], ids=str)
def test_blocks_equal_cross_entropy_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, block: tuple[int, int]
) -> None:
    monkeypatch.setattr(item_softmax, "_IN_ONE_PIECE", 0)
    monkeypatch.setattr(item_softmax, "_ROWS", block[0])
    monkeypatch.setattr(item_softmax, "_COLUMNS", block[1])
    hidden, weight, targets = inputs()
    for scale in (1.0, 30.0):  # logits up to about 500, whose exponential is infinite
        scaled = (hidden.detach() * scale).requires_grad_()
        loss, plain = (
            item_cross_entropy(scaled, weight, targets),
            cross_entropy(scaled @ weight.T, targets),
        )
        torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
        ours, theirs = gradients(loss, scaled, weight), gradients(plain, scaled, weight)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_plain_form_stays_for_small_catalogues() -> None:
    hidden, weight, targets = inputs()
    plain = cross_entropy(hidden @ weight.T, targets)
    assert torch.equal(item_cross_entropy(hidden, weight, targets), plain)


def test_no_block_is_larger_than_2_mb() -> None:
    sizes = [
        logits.numel() * logits.element_size()
        for _, _, logits in item_softmax._blocks(
            torch.zeros(700, 2), torch.zeros(3000, 2), torch.zeros(3000), torch.full((700,), -1)
        )
    ]
    assert max(sizes) <= 1 << 21 and sum(sizes) == 700 * 3000 * 4


def test_autocast_does_not_round_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_softmax, "_IN_ONE_PIECE", 0)
    hidden, weight, targets = inputs()
    expected = item_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(item_cross_entropy(hidden, weight, targets), expected)


class Every(NegativeSampler):
    """Draws each item as often as it is expected to be drawn."""

    def draw(self) -> tuple[Tensor, Tensor]:
        return torch.arange(len(self.share)), torch.zeros(len(self.share))


def test_negatives_drawn_as_often_as_expected_give_the_full_softmax() -> None:
    hidden, weight, targets = inputs()
    sampler = Every(np.ones(101), 5, "cpu")
    loss = item_cross_entropy(hidden, weight, targets, sampler.draw())
    plain = cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(loss, plain)
    ours, theirs = gradients(loss, hidden, weight), gradients(plain, hidden, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_draw_by_hand() -> None:
    """Targets 0 and 2 with the negatives 2 (drawn twice) and 3: target 2 is no negative of
    itself."""

    class Drawn(NegativeSampler):
        def draw(self) -> tuple[Tensor, Tensor]:
            items, count = torch.tensor([2, 3]), torch.tensor([2.0, 1.0])
            return items, (count / (3 * self.share[items])).log().float()

    sampler = Drawn(np.array([7, 0, 3, 1]), 3, "cpu")
    share = np.array([8, 1, 4, 2]) ** 0.75
    share = share / share.sum()
    hidden, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.3], [0.1], [0.5], [-0.2]])
    of = np.exp([[0.3, 0.1, 0.5, -0.2], [0.6, 0.2, 1.0, -0.4]])
    weighted = of * np.array([0, 0, 2, 1]) / (3 * share)
    first = -np.log(of[0, 0] / (of[0, 0] + weighted[0, 2] + weighted[0, 3]))
    second = -np.log(of[1, 2] / (of[1, 2] + weighted[1, 3]))
    loss = item_cross_entropy(hidden, weight, torch.tensor([0, 2]), sampler.draw())
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_estimated_denominator_has_no_bias() -> None:
    """Mean of 4,000 estimates against the sum over all items but the target."""
    torch.manual_seed(0)
    hidden, weight, targets = (t.detach() for t in inputs(5))
    sampler, total = NegativeSampler(np.arange(101) % 9, 40, "cpu"), torch.zeros(5)
    for _ in range(4000):
        items, correction = sampler.draw()
        logits = hidden @ weight[items].T + correction
        total += torch.where(items == targets.unsqueeze(1), -torch.inf, logits).exp().sum(1)
    exact = (hidden @ weight.T).exp()
    exact = exact.sum(1) - exact.gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(total / 4000, exact, rtol=0.05, atol=0)


def test_items_are_drawn_in_proportion_to_their_smoothed_counts() -> None:
    torch.manual_seed(0)
    sampler = NegativeSampler(np.array([0, 15, 80]), 200_000, "cpu")
    items, correction = sampler.draw()
    assert items.tolist() == [0, 1, 2]
    torch.testing.assert_close(
        sampler.share, torch.tensor([1, 8, 27]).double() / 36, rtol=0.02, atol=0
    )
    assert correction.abs().max() < 0.02  # drawn as often as expected


def test_a_single_negative_that_is_the_target_gives_no_loss_and_no_nan() -> None:
    hidden, weight = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    sampler = NegativeSampler(np.ones(1), 1, "cpu")
    loss = item_cross_entropy(hidden, weight, torch.tensor([0]), sampler.draw())
    assert loss.item() == 0
    assert all(not g.any() for g in gradients(loss, hidden, weight))


def test_large_catalogues_are_sampled_unless_set_otherwise() -> None:
    assert n_sampled(None, FULL_UP_TO) == 0 and n_sampled(None, FULL_UP_TO + 1) == N_NEGATIVES
    assert n_sampled(0, FULL_UP_TO + 1) == 0 and n_sampled(20, 5) == 20


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("at_once", [1 << 26, 0], ids=["one piece", "blocks"])
def test_cosines_are_inner_products_of_vectors_of_unit_length(
    monkeypatch: pytest.MonkeyPatch, at_once: int, sampled: bool
) -> None:
    monkeypatch.setattr(item_softmax, "_IN_ONE_PIECE", at_once)
    hidden, weight, targets = inputs()
    cosine = Similarity(cosine=True, temperature=0.2)
    queries, unit = normalize(hidden, dim=1) / 0.2, normalize(weight, dim=1)
    torch.testing.assert_close(cosine.queries(hidden), queries)
    drawn = NegativeSampler(np.arange(101), 50, "cpu").draw() if sampled else None
    losses = [
        item_cross_entropy(queries, weight, targets, drawn, cosine),
        item_cross_entropy(queries, unit, targets, drawn),
    ]
    torch.testing.assert_close(*losses)
    of_both = [torch.autograd.grad(x, (hidden, weight), retain_graph=True) for x in losses]
    torch.testing.assert_close(*of_both, rtol=1e-4, atol=1e-5)
