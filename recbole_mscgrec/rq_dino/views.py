"""Images as small square tensors, and their multi-crop views for DINO.

Views are made for a whole batch at once, on the training device. All random numbers come from
torch's global CPU generator, which the training loop seeds in each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.storage import processes

Tensor = torch.Tensor
Draw = Callable[[int], Tensor]  # n -> uniform random numbers (n,)
_ASPECT = 4 / 3  # largest ratio of a crop's width to its height, and vice versa
_GREY_CHANCE, _BLUR_CHANCE = 0.1, 0.3
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_DECODED_AT_ONCE = 64


class Pixels(Dataset):
    """n images as uint8 (3, 2S, 2S), where S is `image_size`. So a crop of a quarter of the area
    still has full resolution.

    Images are stretched to a square, because cropping a poster would lose more than changing its
    aspect ratio. If all of them fit into `image_cache_gb`, they are decoded once and kept in
    memory; otherwise the loader's workers decode them again in every epoch. If several processes
    create this together, each decodes a part.
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
                generator=torch.Generator(),  # leaves the global generator to the views
            )

    def _decode(self, show_progress: bool) -> Tensor:
        stored = torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8)
        mine = processes.part(len(self), _DECODED_AT_ONCE)
        rows = torch.arange(mine.start, mine.stop).split(_DECODED_AT_ONCE) if mine else ()
        bar = tqdm(total=len(mine), ncols=100, desc="Decoding  ", disable=not show_progress)
        for index, batch in zip(rows, self.batches(list(rows)), strict=True):
            stored[index] = batch
            bar.update(len(index))
        bar.close()
        return processes.complete(stored, _DECODED_AT_ONCE)


def plain_view(batch: Tensor, size: int) -> Tensor:
    """Images without augmentation: from uint8 (B, 3, H, W) to float (B, 3, size, size) in 0..1."""
    return F.interpolate(batch.float() / 255, size=(size, size), mode="bilinear", antialias=True)


def multi_crop(
    batch: Tensor, settings: RQDinoSettings, draw: Draw = torch.rand
) -> tuple[Tensor, Tensor | None]:
    """Two global crops of every image, and its local crops, each with its own colour jitter.

    Args:
        batch: uint8 (B, 3, H, W).
        draw: gives one random number for each image.

    Returns:
        Floats in 0..1, (2B, 3, S, S) and (n_local B, 3, s, s), view by view; the second is None
        without local crops.
    """
    images = batch.float() / 255
    globals_ = [
        _view(images, settings.size, settings.global_scale, settings, draw) for _ in range(2)
    ]
    locals_ = [
        _view(images, settings.local_size, settings.local_scale, settings, draw)
        for _ in range(settings.n_local_crops)
    ]
    return torch.cat(globals_), torch.cat(locals_) if locals_ else None


def _view(
    images: Tensor, size: int, scale: tuple[float, float], settings: RQDinoSettings, draw: Draw
) -> Tensor:
    crop = random_crop(images, size, scale, draw)
    if settings.colour_jitter:
        crop = recolour(crop, settings.colour_jitter, draw)
    return _blur(crop, draw)


def random_crop(
    images: Tensor, size: int, scale: tuple[float, float], draw: Draw = torch.rand
) -> Tensor:
    """A random crop of each image, (B, 3, size, size), mirrored at random. `scale` bounds its share
    of the image's area."""
    n = len(images)
    area = _uniform(draw, n, *scale)
    ratio = _uniform(draw, n, -math.log(_ASPECT), math.log(_ASPECT)).exp().sqrt()
    width, height = (area.sqrt() * ratio).clamp(max=1), (area.sqrt() / ratio).clamp(max=1)
    x, y = (
        (1 - width) * _uniform(draw, n, -1, 1),
        (1 - height) * _uniform(draw, n, -1, 1),
    )  # centres
    mirror = torch.where(draw(n) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    rows = torch.stack([width * mirror, zero, x, zero, height, y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rows.to(images.device), [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor, strength: float, draw: Draw = torch.rand) -> Tensor:
    """Change brightness, contrast, saturation (each by a random factor of 1 +- strength) and hue
    (by a random rotation of up to strength / 4 half-turns); some images become grey. Together this
    is one affine map of the colours per image."""
    n = len(images)
    low = max(0.0, 1 - strength)
    brightness, contrast, saturation = (_uniform(draw, n, low, 1 + strength) for _ in range(3))
    saturation = torch.where(draw(n) < _GREY_CHANCE, 0.0, saturation)
    turn = colour_turn(_uniform(draw, n, -strength / 4, strength / 4) * math.pi, saturation)
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


def _blur(images: Tensor, draw: Draw) -> Tensor:
    """Blend some images with their 3 x 3 box blur."""
    share = _uniform(draw, len(images), 0, 1) * (draw(len(images)) < _BLUR_CHANCE)
    smooth = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return torch.lerp(images, smooth, share.view(-1, 1, 1, 1).to(images))


def _uniform(draw: Draw, n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * draw(n)
