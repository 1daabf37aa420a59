"""Schedules and parameter groups for the optimizer of RQ-DINO."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """The value at a step: linear warm-up from 0 to `start` in `warmup` steps, then half a cosine
    down or up to `end` at step `total`."""
    if step < warmup:
        return start * (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups: matrices, with weight decay, and biases and norms, without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "decays": True},
        {"params": [p for p in parameters if p.dim() <= 1], "decays": False},
    ]
