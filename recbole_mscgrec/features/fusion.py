"""Vectors made comparable across modalities, and concatenated. Quantization discards differences
between similar items, which matters on sparse data."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


def comparable(vectors: Tensor, present: Tensor) -> Tensor:
    """Vectors (N, D) minus their mean, scaled to unit length. The mean is over the items with a
    vector, bool (N,); other items, and those at the mean, get zeros."""
    result = torch.zeros(vectors.shape, dtype=torch.float32)
    rows = present.clone()
    rows[0] = False  # padding
    mine = vectors[rows].float()
    result[rows] = nn.functional.normalize(mine - mine.mean(dim=0), dim=1)
    return result


def side_by_side(vectors: dict[str, Tensor]) -> Tensor:
    """Concatenate the vectors (N, D_m) of all modalities: (N, sum of D_m)."""
    return torch.cat(list(vectors.values()), dim=1)
