"""Checks whether the weights and the optimizer state in a file fit those of this run."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from recbole_mscgrec.storage.schema import Numbers, fault_of_numbers


def unlike(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], place: str) -> str:
    """How the weights in a file differ from those of a network in name, shape or kind of number: ''
    if they fit, else one line. `place` names the network in that line."""
    for name in sorted(theirs.keys() ^ ours.keys()):
        return f"{place} {'has the unknown weight' if name in theirs else 'lacks'} {name:.60}"
    for name, tensor in ours.items():
        given = theirs[name]
        if given.shape != tensor.shape or given.is_floating_point() != tensor.is_floating_point():
            return (
                f"{place}.{name} is {given.dtype} {tuple(given.shape)}, not {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )
    return ""


def unlike_optimizer(theirs: dict[str, Any], ours: torch.optim.Optimizer) -> str:
    """Why the state of an optimizer in a file does not fit this optimizer; '' if it does."""
    groups = ours.state_dict()["param_groups"]
    if len(theirs["param_groups"]) != len(groups):
        return f"optimizer has {len(theirs['param_groups'])} groups, not {len(groups)}"
    for given, group in zip(theirs["param_groups"], groups, strict=True):
        if given["params"] != group["params"]:
            return "optimizer.param_groups belong to other weights"
        for name in given.keys() & _MAY_VARY:
            if not isinstance(given[name], (bool, int, float, type(None))):
                return f"optimizer.param_groups: {name} is {given[name]!r:.40}"
        for name in group.keys() - _MAY_VARY:
            if _kind(given.get(name)) != _kind(group[name]):
                return f"optimizer.param_groups: {name} is {given.get(name)!r:.40}"
    names = _names_of_state(ours)
    weights = [weight for group in ours.param_groups for weight in group["params"]]
    for n, state in theirs["state"].items():
        if not isinstance(n, int) or not 0 <= n < len(weights) or not isinstance(state, dict):
            return f"optimizer.state has an invalid entry {n!r:.40}"
        if state and not names <= state.keys():
            return f"optimizer.state.{n} lacks {', '.join(sorted(names - state.keys()))}"
        if text := _fault_of_state(state, weights[n].shape, f"optimizer.state.{n}"):
            return text
    return ""


# Keys of parameter groups that differ between versions of torch.
_MAY_VARY = frozenset(
    "foreach fused capturable differentiable maximize decoupled_weight_decay initial_lr".split()
)


def _names_of_state(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the values that this optimizer keeps for each weight, found by one step of a
    copy."""
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    accepted = inspect.signature(type(optimizer).__init__).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    probe = type(optimizer)([weight], **options)
    try:
        probe.step()
    except RuntimeError:  # SparseAdam takes sparse gradients only
        weight.grad = torch.zeros(1).to_sparse()
        probe.step()
    return set(probe.state[weight])


def _kind(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_kind(part) for part in value]
    number = isinstance(value, (int, float, torch.Tensor)) and not isinstance(value, bool)
    return "number" if number else type(value).__name__


def _fault_of_state(state: dict, shape: torch.Size, place: str) -> str:
    for name, value in state.items():
        # Adam divides by 1 - beta ** (step + 1).
        if name == "step" and _kind(value) == "number":
            if not bool(torch.as_tensor(value).ge(0).all()):
                return f"{place}.step is {value!r:.40}"
        if not isinstance(value, torch.Tensor):
            if _kind(value) != "number" and (value is not None or name != "momentum_buffer"):
                return f"{place}.{name} is {value!r:.40}"
        elif value.dim() and value.shape != shape:
            return f"{place}.{name} has the shape {tuple(value.shape)}, not {tuple(shape)}"
        elif text := fault_of_numbers(value, Numbers(), f"{place}.{name}"):
            return text
    return ""
