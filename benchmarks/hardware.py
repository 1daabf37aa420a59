"""What timings need of a device: clocks that wait for it, and its measured peak."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def name_of(device: torch.device) -> str:
    """The card, or the processor and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    call: Callable[[], Any], budget: float, device: torch.device, most: int = 30
) -> float:
    """Median over as many calls as fit the budget (3 to `most`), after one to warm up."""
    call()
    wait_for(device)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < budget and len(seconds) < most):
        start = time.perf_counter()
        call()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def flops_of(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products in a call, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of one large matrix product: what the device reaches, not what its data
    sheet says. float32 under the matmul precision that is set."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, 2.0, device)
