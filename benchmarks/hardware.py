"""Helpers for timings on a device: clocks that wait for it, and its measured peak."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def name_of(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    call: Callable[[], Any], budget: float, device: torch.device, most: int = 30
) -> float:
    """Median over as many calls as fit into the budget (3 to `most`), after one warm-up call."""
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
    """Operations per second of one large matrix product: the measured peak, not that of the data
    sheet. float32, with the current matmul precision."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, 2.0, device)
