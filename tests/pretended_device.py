"""A device that is not there: real numbers, computed by the CPU, in tensors that say they are on
another device. What a GPU would refuse raises, and in a step also what it would wait for.

    with pretended_device():
        model.to(DEVICE)
        with one_step():
            model(batch).backward()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.utils.backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

Tensor = torch.Tensor
_NAME = "pretended"
# For these the host waits: it needs a value, or a size that depends on values.
_WAITS = frozenset(
    """_local_scalar_dense nonzero _unique _unique2 unique_dim unique_consecutive bincount
    masked_select equal is_nonzero allclose""".split()
)
_COPIES = frozenset("_to_copy copy_ _copy_from_and_resize".split())


class Refused(AssertionError):
    """The device would not do this, or would make the host wait."""


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device; `numbers` are on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> PretendedTensor:
        made: PretendedTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        made.numbers = numbers
        return made

    def __init__(self, numbers: Tensor) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.numbers!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, in_step=False)


class _Device(TorchDispatchMode):
    """Makes tensors on the device, also without an argument that is there."""

    in_step = False
    waits = 0  # how often the host waited for the device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its import takes seconds, and nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += _waits(func, args, kwargs or {})
        return _computed(func, args, kwargs or {}, self.in_step)


class _Module:
    """What torch asks of the module of a device."""

    def __getattr__(self, name: str) -> Any:
        answers = {"device_count": 1, "current_device": 0, "_is_in_bad_fork": False}
        return lambda *_, **__: answers.get(name, True)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """The types of autocast."""
        return [torch.bfloat16, torch.float16]


if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch knows no devices made in Python", allow_module_level=True)
# The first backward pass starts threads for all devices, after which a process cannot fork. So it
# happens before this device is there, and those on this device run in the calling thread.
torch.ones(1, requires_grad=True).sum().backward()
registration._setup_privateuseone_for_python_backend(rename=_NAME, backend_module=_Module())
DEVICE = torch.device(_NAME, 0)


@contextmanager
def pretended_device() -> Iterator[_Device]:
    """Within this block DEVICE exists."""
    with torch.autograd.set_multithreading_enabled(False), _Device() as device:
        yield device


@contextmanager
def one_step() -> Iterator[None]:
    """Within this block of `pretended_device`, everything stays on the device: no tensor is made on
    the CPU, and nothing makes the host wait for the device."""
    mode = torch.utils._python_dispatch._get_current_dispatch_mode()
    assert isinstance(mode, _Device)
    mode.in_step = True
    try:
        yield
    finally:
        mode.in_step = False


def _computed(func: Any, args: Any, kwargs: dict[str, Any], in_step: bool) -> Any:
    """The result of an operation of torch."""
    name = func._schema.name.removeprefix("aten::")
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, PretendedTensor)]
    target = kwargs.get("device")
    goes_there = bool(there) if target is None else torch.device(target).type == DEVICE.type
    here = [t for t in tensors if not isinstance(t, PretendedTensor)]
    if name not in _COPIES and there and any(t.dim() or in_step for t in here):
        raise Refused(f"{name}: tensors of two devices")
    if in_step and (here or not goes_there):
        raise Refused(f"{name}: a tensor on the CPU")
    if in_step and _waits(func, args, kwargs):
        raise Refused(f"{name}: the host waits for the device")
    if not there and not goes_there:
        return func(*args, **kwargs)
    numbers = tree_map_only(PretendedTensor, lambda t: t.numbers, (args, kwargs))
    if target is not None:
        numbers[1]["device"] = torch.device("cpu")
    out = func(*numbers[0], **numbers[1])
    if name == "copy_":
        return args[0]
    if not goes_there:
        return out
    out = tree_map_only(Tensor, PretendedTensor, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits for the device."""
    name = func._schema.name.removeprefix("aten::")
    if not any(isinstance(t, PretendedTensor) for t in tree_leaves((args, kwargs))):
        return False
    if name in _COPIES:
        to = args[0] if name == "copy_" else kwargs.get("device")
        return to is not None and torch.device(getattr(to, "device", to)).type == "cpu"
    return name in _WAITS or _picks_by_mask(name, args)


def _picks_by_mask(name: str, args: Any) -> bool:
    """Whether an index is a mask, which the device turns into positions."""
    if not name.startswith(("index", "_index_put", "_unsafe_index")) or len(args) < 2:
        return False
    indices = args[1] if isinstance(args[1], (list, tuple)) else []
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
