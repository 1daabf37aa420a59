"""Makes vectors comparable across modalities and concatenates them. Quantization discards
differences between similar items, which matters on sparse data."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


def comparable(vectors: Tensor, present: Tensor) -> Tensor:
    """Vectors (N, D) minus their mean, scaled to unit length. The mean is over the items that have
    a vector (`present`, bool (N,)). Other items, and vectors equal to the mean, become zero."""
    result = torch.zeros(vectors.shape, dtype=torch.float32)
    rows = _rows(present)
    mine = vectors[rows].float()
    result[rows] = centred(mine, mine.mean(dim=0))
    return result


def mean_vector(vectors: Tensor, present: Tensor) -> Tensor:
    """The mean (D,) of vectors (N, D) over the items that have one (`present`, bool (N,))."""
    return vectors[_rows(present)].float().mean(dim=0)


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Vectors (n, D) minus a mean (D,), scaled to unit length."""
    return nn.functional.normalize(vectors.float() - mean, dim=1)


def _rows(present: Tensor) -> Tensor:
    rows = present.clone()
    rows[0] = False  # padding
    return rows


def side_by_side(vectors: dict[str, Tensor]) -> Tensor:
    """Concatenate the vectors (N, D_m) of all modalities: (N, sum of D_m)."""
    return torch.cat(list(vectors.values()), dim=1)
