"""Views: crops, colours, and images kept in memory or decoded anew."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny import coloured_shapes, dino_settings

from recbole_mscgrec.rq_dino.views import (
    Pixels,
    colour_turn,
    multi_crop,
    plain_view,
    random_crop,
    recolour,
)


def test_sizes_and_numbers_of_views() -> None:
    batch = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    globals_, locals_ = multi_crop(batch, dino_settings(n_local_crops=3))
    assert globals_.shape == (10, 3, 16, 16) and locals_.shape == (15, 3, 8, 8)
    assert multi_crop(batch, dino_settings(n_local_crops=0))[1] is None


def test_views_are_a_function_of_the_seed() -> None:
    batch = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(3)
    one = multi_crop(batch, dino_settings())[0]
    torch.manual_seed(3)
    assert torch.equal(one, multi_crop(batch, dino_settings())[0])
    assert not torch.equal(one, multi_crop(batch, dino_settings())[0])
    assert not torch.equal(one[:5], one[5:])  # the two global crops differ


def test_crop_of_everything_is_the_image_or_its_mirror() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8)
    crops = random_crop(images, 8, [1.0, 1.0])
    # An aspect other than 1 cannot fit: the longer side is clamped and the shorter one cut.
    assert crops.shape == images.shape and crops.min() >= 0 and crops.max() <= 1
    flat = torch.full((4, 3, 8, 8), 0.3)
    assert torch.allclose(random_crop(flat, 5, [0.1, 0.5]), torch.full((4, 3, 5, 5), 0.3))


def test_crop_shows_about_the_wanted_share() -> None:
    """On a picture that rises from 0 to 1, the range of a crop is its width."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(400, 3, 64, 64)
    crops = random_crop(ramp, 32, [0.25, 0.25])
    width = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert 0.42 < width.min() and width.max() < 0.6
    assert width.mean() == pytest.approx(0.5, abs=0.03)
    rises = crops[:, 0, 0, -1] > crops[:, 0, 0, 0]
    assert 0.4 < rises.float().mean() < 0.6  # half of them are mirrored


def test_colours() -> None:
    identity = colour_turn(torch.zeros(1), torch.ones(1))
    assert torch.allclose(identity, torch.eye(3), atol=1e-6)
    grey = colour_turn(torch.tensor([1.0]), torch.zeros(1))[0] @ torch.tensor([0.2, 0.9, 0.4])
    assert torch.allclose(grey, grey[0].expand(3))
    turned = colour_turn(torch.tensor([2 * torch.pi / 3]), torch.ones(1))[0]
    assert torch.allclose(turned @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-6)
    images = torch.rand(6, 3, 4, 4)
    changed = recolour(images, 0.4)
    assert changed.min() >= 0 and changed.max() <= 1 and not torch.allclose(changed, images)


def test_plain_view_is_the_whole_image_at_its_size() -> None:
    halves = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    halves[..., 16:] = 255
    view = plain_view(halves, 16)
    assert view.shape == (2, 3, 16, 16)
    assert float(view[..., :7].max()) == 0 and float(view[..., 9:].min()) == 1


@pytest.mark.parametrize("n_workers", [0, 1])
def test_images_that_do_not_fit_into_memory_are_decoded_anew(n_workers: int) -> None:
    images = coloured_shapes(6)
    kept = Pixels(images, dino_settings())
    decoded = Pixels(images, dino_settings(cache_gb=0.0), n_workers)
    assert kept.stored is not None and decoded.stored is None
    rows = [torch.tensor([4, 0]), torch.tensor([5])]
    for one, two in zip(kept.batches(rows), decoded.batches(rows), strict=True):
        assert one.dtype == torch.uint8 and torch.equal(one, two)
    image = images[4].resize((32, 32), Image.Resampling.BICUBIC)
    assert next(kept.batches(rows))[0, :, 3, 5].tolist() == list(image.getpixel((5, 3)))
