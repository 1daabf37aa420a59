"""Computes vectors of images with a backbone or a trained encoder."""

from __future__ import annotations

import torch
from torch import nn
from tqdm import tqdm

from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.rq_dino.views import Pixels, plain_view
from recbole_mscgrec.storage import processes

Tensor = torch.Tensor


@torch.no_grad()
def encode(
    backbone: nn.Module,
    pixels: Pixels,
    settings: RQDinoSettings,
    device: torch.device | str,
    show_progress: bool = False,
) -> Tensor:
    """The vectors of the images without augmentation: float32 (n, D), on the CPU. Leaves the
    backbone in eval mode. Several processes that call this together share the batches.
    """
    backbone.eval()
    mine = processes.part(len(pixels), settings.batch_size)
    rows = torch.arange(mine.start, mine.stop).split(settings.batch_size) if mine else ()
    bar = tqdm(total=len(mine), ncols=100, desc="Encoding  ", disable=not show_progress)
    features = []
    for batch in pixels.batches(list(rows)):
        features.append(backbone(plain_view(batch.to(device), settings.size)).float().cpu())
        bar.update(len(batch))
    bar.close()
    return processes.joined(features, len(pixels), settings.batch_size)
