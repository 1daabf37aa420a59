"""The vectors behind the codes: made comparable across modalities, and side by side. Quantization
discards differences between similar items, which matters on sparse data."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


def comparable(vectors: Tensor, present: Tensor) -> Tensor:
    """Vectors (N, D) of the items that have one, bool (N,), less their mean and of unit length;
    zero elsewhere and where an item is the mean."""
    result = torch.zeros(vectors.shape, dtype=torch.float32)
    rows = present.clone()
    rows[0] = False  # padding
    mine = vectors[rows].float()
    result[rows] = nn.functional.normalize(mine - mine.mean(dim=0), dim=1)
    return result


def side_by_side(vectors: dict[str, Tensor]) -> Tensor:
    """(N, sum of D_m) from (N, D_m) of every modality."""
    return torch.cat(list(vectors.values()), dim=1)
