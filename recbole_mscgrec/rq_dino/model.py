"""The parts of DINO: projection head, student and teacher network, teacher targets, loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_mscgrec.rq_dino.backbone import Backbone, Projection
from recbole_mscgrec.rq_dino.quantizer import Quantized, ResidualVQ
from recbole_mscgrec.rq_dino.settings import SINKHORN, RQDinoSettings

Tensor = torch.Tensor
_SINKHORN_STEPS = 3
_CENTRE_DECAY = 0.9


def _full_precision(x: Tensor) -> Any:
    """A context without autocast: bfloat16 is too coarse for distances to codewords and for cosines
    divided by a temperature."""
    return torch.autocast(x.device.type, enabled=False)


class DinoHead(nn.Module):
    """The projection head: an MLP, then cosines of its output to `out_dim` prototypes."""

    def __init__(self, width: int, settings: RQDinoSettings) -> None:
        super().__init__()
        hidden, bottleneck = settings.head_size, max(settings.head_size // 4, 1)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(settings.out_dim, bottleneck))
        for layer in (m for m in self.mlp if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> float32 (B, out_dim)."""
        x = self.mlp(x).float()
        with _full_precision(x):
            return F.normalize(x, dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class DinoNetwork(nn.Module):
    """Backbone, residual quantizer (only in the student) and head.

    Args:
        backbone: maps crops to vectors, or is the projection on top of a frozen backbone.
        codebook_sizes: K of each level, or None for a network without quantizer.
    """

    def __init__(
        self,
        backbone: Backbone | Projection,
        settings: RQDinoSettings,
        codebook_sizes: list[int] | None,
    ) -> None:
        super().__init__()
        self.backbone, width = backbone, backbone.width
        self.quantizer = (
            None if codebook_sizes is None else ResidualVQ(codebook_sizes, width, settings)
        )
        self.head = DinoHead(width, settings)

    def forward(self, *crops: Tensor | None) -> tuple[Tensor, Tensor, Quantized | None]:
        """Apply the network to crops (b_i, 3, s_i, s_i) of several sizes, or to their vectors from
        a frozen backbone. Returns logits (B, out_dim), representations (B, D), where B is the sum
        of all b_i, and their quantization, or None if there is none yet."""
        features = torch.cat([self.backbone(c) for c in crops if c is not None]).float()
        if self.quantizer is None or not self.quantizer.ready:
            return self.head(features), features, None
        with _full_precision(features):
            quantized = self.quantizer(features)
        return self.head(quantized.straight_through), features, quantized


class Student(DinoNetwork):
    """The network that is trained by gradients; it has a quantizer."""

    quantizer: ResidualVQ

    def __init__(
        self, backbone: Backbone | Projection, settings: RQDinoSettings, codebook_sizes: list[int]
    ) -> None:
        super().__init__(backbone, settings, codebook_sizes)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for all weights of the teacher."""
    source = student.state_dict()
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            value.lerp_(source[name].to(value), 1 - momentum)
        else:
            value.copy_(source[name])


def sinkhorn(logits: Tensor, temperature: float, n_steps: int = _SINKHORN_STEPS) -> Tensor:
    """Probabilities (B, O) that use the O prototypes evenly (Sinkhorn-Knopp, as in SwAV and
    DINOv2): alternately, columns are scaled to sum to B / O and rows to 1. This prevents collapse
    even in batches that are too small for a running mean."""
    log_plan = logits.float() / temperature
    share = torch.tensor(log_plan.size(0) / log_plan.size(1)).log()
    for _ in range(n_steps):
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True) + share
        log_plan = log_plan.log_softmax(dim=1)
    return log_plan.exp()


class TeacherTargets(nn.Module):
    """Turns the teacher's logits into sharpened and balanced probabilities."""

    centre: Tensor

    def __init__(self, settings: RQDinoSettings) -> None:
        super().__init__()
        self.balance, self.temperature = settings.teacher_balance, settings.teacher_temperature
        self.register_buffer("centre", torch.zeros(settings.out_dim))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Logits (2B, O) -> probabilities (2B, O), balanced by Sinkhorn-Knopp or by subtracting the
        running mean (DINO's centering)."""
        if self.balance == SINKHORN:
            return sinkhorn(logits, self.temperature)
        probabilities = ((logits - self.centre) / self.temperature).softmax(dim=1)
        self.centre.lerp_(logits.mean(dim=0), 1 - _CENTRE_DECAY)
        return probabilities


def dino_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy between every student view and both teacher views of the same image; a
    view is not compared with itself.

    Args:
        student: logits (V, B, O); the first two views are those of the teacher.
        teacher: probabilities (2, B, O).
        temperature: of the student.
    """
    log_p = (student / temperature).log_softmax(dim=-1)
    total, pairs = student.new_zeros(()), 0
    for t, target in enumerate(teacher):
        for v, view in enumerate(log_p):
            if v != t:
                total, pairs = total - (target * view).sum(dim=-1).mean(), pairs + 1
    return total / pairs


def koleo(features: Tensor) -> Tensor:
    """The KoLeo regularizer of DINOv2: the mean negative log distance of each vector (B, D), scaled
    to unit length, to its nearest neighbour. It is lower if the vectors are spread out. Without it,
    only a few dimensions are used."""
    unit = F.normalize(features, dim=-1)
    with torch.no_grad():
        near = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    return -(unit - unit[near]).norm(dim=-1).clamp(min=1e-6).log().mean()
