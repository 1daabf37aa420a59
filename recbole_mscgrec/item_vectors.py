"""The vectors behind the codes: made comparable across modalities, side by side, as part of an
item's token. Codes round off what tells alike items apart; on sparse data that is much."""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor
FUSED = "fused"  # the target whose codes are those of all modalities' vectors side by side


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


def principal_maps(vectors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Linear maps (size, D_m) of the modalities, whose sum over an item's modalities holds the
    first `size` principal components of all items' vectors side by side, with a root mean square
    of 1 about their mean. Rows behind the last component are zero."""
    joint = side_by_side(vectors)[1:].double()
    joint = joint - joint.mean(dim=0)
    values, axes = torch.linalg.eigh(joint.T @ joint)  # ascending
    axes = axes.flip(1)[:, :size]
    axes = torch.where(axes.sum(dim=0) < 0, -axes, axes)  # they have no sign of their own
    kept = values.flip(0)[:size].clamp(min=0).sum() / (len(joint) * size)
    maps = torch.zeros(size, joint.size(1))
    maps[: axes.size(1)] = (axes.T / kept.sqrt().clamp(min=1e-12)).float()
    return dict(zip(vectors, maps.split([v.size(1) for v in vectors.values()], dim=1), strict=True))


def codeword_means(vectors: Tensor, codes: Tensor, level_sizes: list[int]) -> Tensor:
    """What the codewords of codes (n, L) stand for: (sum of K_l, D), level by level.

    A codeword is the mean of what the levels before it left over of the vectors (n, D) of its
    items, as in residual quantization; zero where no item has it.
    """
    left, means = vectors.clone(), []
    for code, size in zip(codes.T, level_sizes, strict=True):
        count = torch.bincount(code, minlength=size).clamp(min=1).unsqueeze(1)
        mean = torch.zeros(size, vectors.size(1)).index_add_(0, code, left) / count
        means.append(mean)
        left = left - mean[code]
    return torch.cat(means)


class VectorPart(nn.Module):
    """A modality's part of an item's token: a linear map of its vector."""

    def __init__(self, vectors: Tensor, size: int) -> None:
        super().__init__()
        # A checkpoint holds the vectors beside the code table. Half precision, as a large catalogue
        # has more of these numbers than the network of weights; three digits are enough for them.
        self.register_buffer("vectors", vectors.half(), persistent=False)  # (N, D_m)
        self.map = nn.Linear(vectors.size(1), size, bias=False)

    def forward(self, items: Tensor) -> Tensor:
        """(U,) item ids -> (U, D)."""
        return self.map(self.vectors[items].to(self.map.weight.dtype))
