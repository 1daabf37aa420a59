"""Residual vector quantization inside a network: straight-through gradients, EMA codebooks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer, nearest

Tensor = torch.Tensor


class Quantized(NamedTuple):
    """The quantization of B vectors."""

    straight_through: Tensor  # (B, D) equal to `vectors`, but gradients go to the input
    vectors: Tensor  # (B, D) sums of codewords
    codes: Tensor  # long (B, L)
    commitment: Tensor  # () mean squared distance of the input from the partial sum at each level


class ResidualVQ(nn.Module):
    """L codebooks for vectors of width D; each quantizes the residuals of the earlier levels.

    Codewords are not parameters, but running means (decay `codebook_decay`) of the residuals
    assigned to them. They are initialized by k-means on the whole catalogue; until then `ready` is
    False.
    """

    started: Tensor

    def __init__(self, codebook_sizes: list[int], width: int, settings: RQDinoSettings) -> None:
        super().__init__()
        self.sizes, self.decay = codebook_sizes, settings.codebook_decay
        self.restart_below = settings.restart_below
        for level, size in enumerate(codebook_sizes):
            self.register_buffer(f"codebook{level}", torch.zeros(size, width))
            self.register_buffer(f"total{level}", torch.zeros(size, width))  # EMA of sums
            self.register_buffer(f"count{level}", torch.zeros(size))  # EMA of choices per step
        self.register_buffer("started", torch.tensor(False))

    @property
    def ready(self) -> bool:
        """Whether the codebooks are initialized."""
        return bool(self.started)

    @property
    def codebooks(self) -> list[Tensor]:
        """The codebook (K_l, D) of each level."""
        return [getattr(self, f"codebook{level}") for level in range(len(self.sizes))]

    def state(self) -> list[Tensor]:
        """All numbers that change in training."""
        return [buffer for buffer in self.buffers() if buffer is not self.started]

    @torch.no_grad()
    def start(self, features: Tensor, seed: int, batch_size: int) -> None:
        """Initialize the codebooks by k-means on the features (N, D) of the catalogue. The running
        means start as if every step so far had seen `batch_size` features.

        Raises:
            UserError: there are more codewords than items, all features are equal, or one is not
                finite.
        """
        quantizer = ResidualQuantizer(self.sizes, seed=seed)
        codes = quantizer.fit(features.cpu())
        for level, (size, codebook) in enumerate(zip(self.sizes, quantizer.codebooks, strict=True)):
            count = torch.bincount(codes[:, level], minlength=size) * batch_size / len(features)
            self._set(level, codebook, count)
        self.started.fill_(True)

    def _set(self, level: int, codebook: Tensor, count: Tensor) -> None:
        getattr(self, f"codebook{level}").copy_(codebook)
        getattr(self, f"count{level}").copy_(count)
        getattr(self, f"total{level}").copy_(codebook * count.to(codebook).unsqueeze(1))

    def forward(self, z: Tensor) -> Quantized:
        """Quantize (B, D) by the nearest codeword of each level."""
        sums, codes, commitment = torch.zeros_like(z), [], z.new_zeros(())
        for codebook in self.codebooks:
            code = nearest((z - sums).detach(), codebook)[0]
            sums = sums + codebook[code]
            codes.append(code)
            commitment = commitment + (z - sums).square().mean()
        straight_through = z + (sums - z).detach()
        return Quantized(straight_through, sums, torch.stack(codes, 1), commitment / len(codes))

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor) -> int:
        """Update the codebooks with vectors z (B, D) and their codes (B, L), and restart dead
        codewords. Returns the number of restarts.

        A codeword is dead if its use is below `restart_below` times the average use of a codeword.
        It moves to the residual of a random vector of the batch. Its running sum and count are
        reset, because they would pull it back.
        """
        residual, n_restarted = z, 0
        for level, size in enumerate(self.sizes):
            code, codebook = codes[:, level], getattr(self, f"codebook{level}")
            count, total = getattr(self, f"count{level}"), getattr(self, f"total{level}")
            before = codebook[code]
            chosen = torch.bincount(code, minlength=size).to(count)
            count.lerp_(chosen, 1 - self.decay)
            total.lerp_(torch.zeros_like(total).index_add_(0, code, residual), 1 - self.decay)
            mean = len(z) / size
            dead = (count < self.restart_below * mean).nonzero().flatten()
            if len(dead):
                draw = torch.randperm(len(z))[torch.arange(len(dead)) % len(z)].to(z.device)
                count[dead] = mean
                total[dead] = residual[draw] * mean
                n_restarted += len(dead)
            codebook.copy_(total / count.clamp(min=1e-6).unsqueeze(1))
            residual = residual - before
        return n_restarted


def perplexities(counts: list[Tensor]) -> list[float]:
    """The perplexity, exp(entropy), of the code frequencies (K_l,) of each level."""
    shares = [c[c > 0].double() / c.sum() for c in counts]
    return [float((-(share * share.log()).sum()).exp()) for share in shares]
