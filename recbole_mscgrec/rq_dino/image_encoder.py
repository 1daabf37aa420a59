"""The trained image encoder as plain tensors, to encode the images of new items later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from recbole_mscgrec.rq_dino.backbone import Projection, make_backbone
from recbole_mscgrec.rq_dino.encoding import encode
from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.storage import matching
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_WEIGHT, _CODEBOOK = "encoder.", "codebook."


def to_tensors(encoder: nn.Module, codebooks: Iterable[Tensor] = ()) -> dict[str, Tensor]:
    """The weights of an encoder, and the codebooks (K_l, D) that were learned with it, if any, as
    named tensors."""
    tensors = {f"{_WEIGHT}{name}": weight for name, weight in encoder.state_dict().items()}
    tensors |= {f"{_CODEBOOK}{level}": book for level, book in enumerate(codebooks)}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


class ImageEncoder(NamedTuple):
    """An encoder from images to vectors of width D."""

    network: nn.Module
    settings: RQDinoSettings
    codebooks: list[Tensor]  # (K_l, D) each; empty for a frozen backbone

    @classmethod
    def from_tensors(cls, plain: dict[str, Tensor], settings: RQDinoSettings) -> ImageEncoder:
        """The encoder that `to_tensors` turned into `plain`, trained with these settings. Raises
        UserError if the tensors do not fit the settings."""
        fresh = replace(settings, weights=None, cache_gb=0.0)
        n_levels = sum(name.startswith(_CODEBOOK) for name in plain)
        codebooks = [plain[f"{_CODEBOOK}{level}"] for level in range(n_levels)]
        backbone = make_backbone(fresh)
        network: nn.Module = backbone
        if codebooks and settings.projection:
            network = nn.Sequential(backbone, Projection(backbone.width, settings.projection))
        elif codebooks:
            network = nn.Sequential(nn.Identity(), backbone)
        weights = {k.removeprefix(_WEIGHT): w for k, w in plain.items() if k.startswith(_WEIGHT)}
        if wrong := matching.unlike(weights, network.state_dict(), "image encoder"):
            raise UserError(f"The stored image encoder does not fit its settings: {wrong}.")
        network.load_state_dict(weights)
        return cls(network.eval(), fresh, codebooks)

    def vectors(self, images: Any, n_workers: int = 0, show_progress: bool = False) -> Tensor:
        """Vectors float32 (n, D) of n images without augmentation, computed on the CPU."""
        pixels = Pixels(images, self.settings, n_workers)
        return encode(self.network, pixels, self.settings, "cpu", show_progress)
