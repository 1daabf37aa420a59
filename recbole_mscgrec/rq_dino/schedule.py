"""Schedules and parameter groups of RQ-DINO's optimizer."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """A schedule: linear warm-up from 0 to `start` in `warmup` steps, then half a cosine to
    `end`."""
    if step < warmup:
        return start * (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices only, not for biases and norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "decays": True},
        {"params": [p for p in parameters if p.dim() <= 1], "decays": False},
    ]
