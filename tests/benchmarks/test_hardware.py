"""The timings' clock and counter, and the training steps that use them, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

CPU = torch.device("cpu")


def test_operations_of_a_product(script: Callable[[str], ModuleType]) -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert script("hardware").flops_of(lambda: a @ b) == 2 * 3 * 5 * 7


def test_the_median_of_at_least_three_calls_after_a_warm_up(
    script: Callable[[str], ModuleType],
) -> None:
    calls: list[None] = []
    assert script("hardware").median_seconds(lambda: calls.append(None), 0.0, CPU) >= 0
    assert len(calls) == 1 + 3


@pytest.mark.slow
def test_a_step_counts_every_position_as_a_target(script: Callable[[str], ModuleType]) -> None:
    decode, train_steps = script("decode"), script("train_steps")
    network = decode.build_network(decode.random_codes(50)).train()
    before = network.start.detach().clone()
    found = train_steps.measure(network, rows=2, length=6, precision="float32")
    assert found["targets_per_second"] == pytest.approx(12 / found["step_seconds"], abs=1)
    assert found["flops"] > 0 and not torch.equal(network.start, before)  # it trains
    rate = found["flops"] / found["step_seconds"]
    assert found["share_of_peak"] == pytest.approx(rate / found["peak_flops"])
