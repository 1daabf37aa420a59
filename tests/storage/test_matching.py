"""Weights and optimizers of a file against those of a run."""

from __future__ import annotations

import copy

import pytest
import torch

from recbole_mscgrec.storage.matching import unlike, unlike_optimizer


def adam() -> torch.optim.Optimizer:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer


def test_the_state_of_the_same_optimizer_fits() -> None:
    assert unlike_optimizer(adam().state_dict(), adam()) == ""


@pytest.mark.parametrize("step", [torch.tensor(-1.0), -1, torch.tensor(float("nan"))])
def test_a_step_before_the_first_one_is_named(step: torch.Tensor | int) -> None:
    """Adam would divide by zero."""
    state = copy.deepcopy(adam().state_dict())
    state["state"][0]["step"] = step
    assert unlike_optimizer(state, adam()).startswith("optimizer.state.0.step is ")


def test_weights_of_other_names_and_shapes_are_named() -> None:
    ours = {"a": torch.ones(2), "b": torch.ones(3)}
    assert unlike(dict(ours), ours, "model") == ""
    assert unlike({"a": torch.ones(2)}, ours, "model") == "model lacks b"
    assert unlike({**ours, "c": torch.ones(1)}, ours, "model") == "model has the unknown weight c"
    assert "not torch.float32 (3,)" in unlike({**ours, "b": torch.ones(4)}, ours, "model")
