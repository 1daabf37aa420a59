"""RQ-DINO: image codes learned by self-distillation through a residual quantizer (paper: image
tokenization).

DINO trains a student to predict, from any crop of an image, what an EMA teacher says of another
crop. Here the student's representation is residual-quantized before its projection head, with
straight-through gradients, and the teacher stays continuous. So the codes have to carry what
self-distillation needs, which is what an image is of, and not what its pixels need.
"""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.rq_dino.backbone import make_backbone
from recbole_mscgrec.rq_dino.settings import RQDinoSettings, check_settings
from recbole_mscgrec.rq_dino.training import DinoTraining, encode
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError

__all__ = ["RQDinoSettings", "RQDinoResult", "backbone_features", "rq_dino"]
Tensor = torch.Tensor


class RQDinoResult(NamedTuple):
    """Codes of n images, and how they were learned.

    history: `epochs` (per epoch loss, dino_loss, commitment, perplexity per level over the global
    crops, codewords restarted, whether it began with k-means), `seconds`, `images_per_second`,
    `log_out_dim`: the loss of a collapsed student.
    """

    codes: Tensor  # long (n, L)
    vectors: Tensor  # float32 (n, D), continuous
    quantized: Tensor  # float32 (n, D), sums of codewords
    history: dict[str, Any]


def rq_dino(
    images: Any,
    settings: RQDinoSettings,
    codebook_sizes: list[int],
    *,
    seed: int,
    device: torch.device | str,
    partial: Path,
    log_dir: Path | None,
    show_progress: bool,
    n_workers: int,
) -> RQDinoResult:
    """Train RQ-DINO on `images` and give the codes of the un-augmented images.

    The vectors are the student's, in whose space the codebooks were learned; codes come from those
    codebooks as training left them. Without `quantize` the student is DINO's own and the
    codebooks are k-means on its vectors after training. A function of images, settings and seed.
    An interrupted run goes on from the file `partial`, which is removed at the end.

    Raises:
        UserError: a setting outside its range, more codewords than images, a backbone or weights
            that cannot be had, or a loss that is not finite.
    """
    check_settings(settings)
    if settings.projection:
        _warn_if_random(settings, "image_projection")
    if max(codebook_sizes) > len(images):
        raise UserError(
            f"codebook_size ({max(codebook_sizes)}) must not exceed the number of images "
            f"({len(images)}): lower codebook_size, or leave image out of `modalities`."
        )
    with _own_random(device):
        pixels = Pixels(images, settings, n_workers, show_progress)
        training = DinoTraining(
            pixels,
            settings,
            codebook_sizes,
            seed=seed,
            device=device,
            partial=partial,
            log_dir=log_dir,
        )
        training.run(show_progress)
        vectors = encode(training.encoder, pixels, settings, device)
        codes, quantized = _quantize(vectors, training, codebook_sizes, seed)
    partial.unlink(missing_ok=True)
    _log(training.history)
    return RQDinoResult(codes, vectors, quantized, training.history)


def _quantize(
    vectors: Tensor, training: DinoTraining, codebook_sizes: list[int], seed: int
) -> tuple[Tensor, Tensor]:
    quantizer = ResidualQuantizer(codebook_sizes, seed=seed)
    learned = training.student.quantizer
    if learned.ready:
        quantizer.codebooks = [codebook.cpu().float() for codebook in learned.codebooks]
        codes = quantizer.encode(vectors)
    else:
        codes = quantizer.fit(vectors)
    return codes, quantizer.decode(codes)


def _log(history: dict[str, Any]) -> None:
    last = history["epochs"][-1]
    getLogger().info(
        f"RQ-DINO: {len(history['epochs'])} epochs, {history['images_per_second']:.0f} images per "
        f"second, DINO loss {last['dino_loss']:.3f} (collapsed: {history['log_out_dim']:.3f})"
    )


def backbone_features(
    images: Any,
    settings: RQDinoSettings,
    *,
    device: torch.device | str,
    n_workers: int,
    show_progress: bool,
    seed: int,
) -> Tensor:
    """float32 (n, D): vectors of the un-augmented images from `image_backbone` as it is, random
    weights of this seed or those of `image_weights`.

    Raises:
        UserError: as `rq_dino`.
    """
    check_settings(settings)
    _warn_if_random(settings, "image_tokenizer=features")
    with _own_random(device):
        torch.manual_seed(seed)
        backbone = make_backbone(settings).to(device)
        once = replace(settings, cache_gb=0.0)  # nothing is gained by keeping them
        pixels = Pixels(images, once, n_workers)
        return encode(backbone, pixels, settings, device, show_progress)


def _own_random(device: torch.device | str) -> Any:
    """Leave the generators that the rest of the run draws from as they were."""
    kind = torch.device(device).type
    devices = range(torch.cuda.device_count()) if kind == "cuda" else []
    return torch.random.fork_rng(devices=list(devices))


def _warn_if_random(settings: RQDinoSettings, what: str) -> None:
    if not settings.weights:
        getLogger().warning(
            f"image: {what} with a backbone of random weights tells little more than colours: set "
            "image_weights (hub, or a file)."
        )
