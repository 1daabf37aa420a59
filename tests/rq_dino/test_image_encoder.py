"""The kept image encoder: known images get their vectors and codes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import coloured_shapes, dino_settings

from recbole_mscgrec.rq_dino.api import backbone_features, rq_dino
from recbole_mscgrec.rq_dino.image_encoder import ImageEncoder
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
CONVOLUTIONS = {"backbone": "resnet10t", "backbone_args": {}, "size": 16}


def through_a_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return safetensors.torch.load(safetensors.torch.save(tensors))


@pytest.mark.parametrize(
    "changes",
    [{}, {"projection": 4}, {"quantize": False}, {**CONVOLUTIONS, "epochs": 1}],
    ids=["trained", "projection", "k-means", "convolutions"],
)
def test_known_images_get_their_codes_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    images, settings = coloured_shapes(16), dino_settings(**changes)
    options: dict[str, Any] = {"device": "cpu", "log_dir": None, "show_progress": False}
    made = rq_dino(
        images, settings, [6, 4], seed=1, partial=tmp_path / "p.pth", n_workers=0, **options
    )
    encoder = ImageEncoder.from_tensors(through_a_file(made.encoder), settings)
    torch.testing.assert_close(encoder.vectors(images), made.vectors, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        encoder.vectors(images[3:5]), made.vectors[3:5], atol=1e-4, rtol=1e-4
    )
    quantizer = ResidualQuantizer([6, 4])
    quantizer.codebooks = encoder.codebooks
    assert torch.equal(quantizer.encode(encoder.vectors(images)), made.codes)


def test_a_frozen_backbone_has_no_codebooks() -> None:
    images = coloured_shapes(5)
    options: dict[str, Any] = {"device": "cpu", "n_workers": 0, "show_progress": False}
    vectors, tensors = backbone_features(images, dino_settings(), seed=3, **options)
    encoder = ImageEncoder.from_tensors(through_a_file(tensors), dino_settings())
    assert encoder.codebooks == []
    torch.testing.assert_close(encoder.vectors(images), vectors)


def test_weights_of_other_settings_are_refused() -> None:
    options: dict[str, Any] = {"device": "cpu", "n_workers": 0, "show_progress": False}
    _, tensors = backbone_features(coloured_shapes(2), dino_settings(), seed=3, **options)
    with pytest.raises(UserError, match="image encoder does not fit its settings"):
        ImageEncoder.from_tensors(tensors, dino_settings(size=24))
