"""Images as small square tensors, decoded once, and their multi-crop views for DINO.

Views are made for a whole batch at once, on the training device. All random numbers come from
torch's global CPU generator, which the training loop seeds in each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from recbole_mscgrec.rq_dino.settings import RQDinoSettings

Tensor = torch.Tensor
_ASPECT = 4 / 3  # crops are at most this much wider or higher than the image
_GREY_CHANCE, _BLUR_CHANCE = 0.1, 0.3
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_DECODED_AT_ONCE = 64


class Pixels(Dataset):
    """n images as uint8 (3, 2S, 2S), where S is `image_size`, so that a crop of a quarter has full
    resolution.

    Images are stretched to a square, because cropping a poster would lose more than changing its
    aspect ratio. All of them are kept in memory if they fit into `image_cache_gb`; otherwise the
    workers of the loader decode them again in every epoch.
    """

    def __init__(
        self, images: Any, settings: RQDinoSettings, n_workers: int = 0, show_progress: bool = False
    ) -> None:
        self.images, self.side, self.n_workers = images, 2 * settings.size, n_workers
        self.stored: Tensor | None = None
        if len(images) * 3 * self.side**2 <= settings.cache_gb * 1e9:
            self.stored = self._decode(show_progress)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index].resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def batches(self, rows: list[Tensor]) -> Iterator[Tensor]:
        """Yields the images of each tensor of indices, uint8 (b, 3, 2S, 2S)."""
        if self.stored is not None:
            yield from (self.stored[index] for index in rows)
        else:
            yield from DataLoader(
                self,
                batch_sampler=[index.tolist() for index in rows],
                num_workers=self.n_workers,
                generator=torch.Generator(),  # not the global generator, which the views use
            )

    def _decode(self, show_progress: bool) -> Tensor:
        stored = torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8)
        rows = torch.arange(len(self)).split(_DECODED_AT_ONCE)
        bar = tqdm(total=len(self), ncols=100, desc="Decoding  ", disable=not show_progress)
        for index, batch in zip(rows, self.batches(list(rows)), strict=True):
            stored[index] = batch
            bar.update(len(index))
        bar.close()
        return stored


def plain_view(batch: Tensor, size: int) -> Tensor:
    """Images without augmentation: from uint8 (B, 3, H, W) to float (B, 3, size, size) in 0..1."""
    return F.interpolate(batch.float() / 255, size=(size, size), mode="bilinear", antialias=True)


def multi_crop(batch: Tensor, settings: RQDinoSettings) -> tuple[Tensor, Tensor | None]:
    """Two global crops of every image, and its local crops, each with its own colour jitter.

    Returns floats in 0..1, (2B, 3, S, S) and (n_local B, 3, s, s), view by view; the second is None
    without local crops.
    """
    images = batch.float() / 255
    globals_ = [_view(images, settings.size, settings.global_scale, settings) for _ in range(2)]
    locals_ = [
        _view(images, settings.local_size, settings.local_scale, settings)
        for _ in range(settings.n_local_crops)
    ]
    return torch.cat(globals_), torch.cat(locals_) if locals_ else None


def _view(
    images: Tensor, size: int, scale: tuple[float, float], settings: RQDinoSettings
) -> Tensor:
    crop = random_crop(images, size, scale)
    if settings.colour_jitter:
        crop = recolour(crop, settings.colour_jitter)
    return _blur(crop)


def random_crop(images: Tensor, size: int, scale: tuple[float, float]) -> Tensor:
    """A crop with a random share, within `scale`, of the area of each image, mirrored at random:
    (B, 3, size, size)."""
    n = len(images)
    area = _uniform(n, *scale)
    ratio = _uniform(n, -math.log(_ASPECT), math.log(_ASPECT)).exp().sqrt()
    width, height = (area.sqrt() * ratio).clamp(max=1), (area.sqrt() / ratio).clamp(max=1)
    x, y = (1 - width) * _uniform(n, -1, 1), (1 - height) * _uniform(n, -1, 1)  # centres
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    rows = torch.stack([width * mirror, zero, x, zero, height, y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rows.to(images.device), [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor, strength: float) -> Tensor:
    """Random brightness, contrast, saturation (each a factor of 1 +- strength) and hue (a rotation
    of up to a quarter of `strength`); sometimes grey. All is one affine map per image."""
    n = len(images)
    low = max(0.0, 1 - strength)
    brightness, contrast, saturation = (_uniform(n, low, 1 + strength) for _ in range(3))
    saturation = torch.where(torch.rand(n) < _GREY_CHANCE, 0.0, saturation)
    turn = colour_turn(_uniform(n, -strength / 4, strength / 4) * math.pi, saturation)
    matrix = ((brightness * contrast).view(n, 1, 1) * turn).to(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    offset = (brightness * (1 - contrast)).view(n, 1, 1, 1).to(images) * mean
    return (torch.einsum("nij,njhw->nihw", matrix, images) + offset).clamp(0, 1)


def colour_turn(angle: Tensor, saturation: Tensor) -> Tensor:
    """Matrices (n, 3, 3) that rotate colours about the grey axis by `angle` and scale their
    distance from it."""
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    along = torch.full((3, 3), 1 / 3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    turn = along + cos * (torch.eye(3) - along) + sin * axis
    grey = _LUMA.expand(3, 3)
    return saturation.view(-1, 1, 1) * (turn - grey) + grey


def _blur(images: Tensor) -> Tensor:
    """Mix some images with their mean over 3 x 3 pixels."""
    share = _uniform(len(images), 0, 1) * (torch.rand(len(images)) < _BLUR_CHANCE)
    smooth = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return torch.lerp(images, smooth, share.view(-1, 1, 1, 1).to(images))


def _uniform(n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n)
