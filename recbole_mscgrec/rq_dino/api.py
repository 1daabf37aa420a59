"""RQ-DINO: image codes learned by self-distillation through a residual quantizer (paper: image
tokenization).

DINO trains a student to predict, from any crop of an image, the output of an EMA teacher for
another crop. In RQ-DINO the student's representation is residual-quantized before its projection
head, with straight-through gradients; the teacher's is not. So the codes carry the content of an
image, which self-distillation needs, rather than the details needed to reconstruct its pixels.
"""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.rq_dino.backbone import make_backbone
from recbole_mscgrec.rq_dino.encoding import encode
from recbole_mscgrec.rq_dino.image_encoder import to_tensors
from recbole_mscgrec.rq_dino.settings import RQDinoSettings, check_settings
from recbole_mscgrec.rq_dino.training import DinoTraining
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.processes import is_first

__all__ = ["RQDinoSettings", "RQDinoResult", "backbone_features", "rq_dino"]
Tensor = torch.Tensor


class RQDinoResult(NamedTuple):
    """Codes of n images, and the record of their training.

    history: `epochs` (for each epoch: loss, dino_loss, commitment, spread, perplexity per level
    over the global crops, number of restarted codewords, whether the epoch began with k-means),
    `seconds`, `images_per_second`, and `log_out_dim`, the loss of a collapsed student.
    """

    codes: Tensor  # long (n, L)
    vectors: Tensor  # float32 (n, D), continuous
    quantized: Tensor  # float32 (n, D), sums of codewords
    history: dict[str, Any]
    encoder: dict[str, Tensor]  # for `ImageEncoder.from_tensors`, to encode images of new items


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
    """Train RQ-DINO on `images` and return the codes of the images without augmentation.

    The vectors are those of the student, and the codes are their nearest codewords in the codebooks
    at the end of training. With `quantize` off, the student is trained as in DINO, and k-means on
    its vectors gives the codebooks. The result depends only on images, settings, sizes and seed. An
    interrupted run resumes from the file `partial`, which is removed at the end.

    Several processes that call this together share the work. They get the result of a single
    process, except for rounding and stochastic depth. The first one writes `partial` and `log_dir`.

    Raises:
        UserError: a setting is outside its range, there are more codewords than images, the
            backbone or its weights are not available, or the loss is not finite.
    """
    _check(settings, codebook_sizes, len(images))
    device, show_progress = processes.own(torch.device(device)), show_progress and is_first()
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
        quantizer = _quantizer(vectors, training, codebook_sizes, seed)
    if is_first():
        partial.unlink(missing_ok=True)
    _log(training.history)
    codes = quantizer.encode(vectors)
    encoder = to_tensors(training.encoder, quantizer.codebooks)
    return RQDinoResult(codes, vectors, quantizer.decode(codes), training.history, encoder)


def _check(settings: RQDinoSettings, codebook_sizes: list[int], n_images: int) -> None:
    check_settings(settings)
    if settings.projection:
        _warn_if_random(settings, "image_projection")
    if max(codebook_sizes) > n_images:
        raise UserError(
            f"codebook_size ({max(codebook_sizes)}) must not exceed the number of images "
            f"({n_images}): lower codebook_size, or remove image from modalities."
        )


def _quantizer(
    vectors: Tensor, training: DinoTraining, codebook_sizes: list[int], seed: int
) -> ResidualQuantizer:
    """The codebooks of the student or, if it has none, codebooks by k-means on its vectors."""
    quantizer = ResidualQuantizer(codebook_sizes, seed=seed)
    learned = training.student.quantizer
    if learned.ready:
        quantizer.codebooks = [codebook.cpu().float() for codebook in learned.codebooks]
    else:
        quantizer.fit(vectors)
    return quantizer


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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Vectors of the images from the backbone, without training it: float32 (n, D); and the tensors
    that `ImageEncoder.from_tensors` reads, to encode images of new items.

    The backbone has the weights of `image_weights`, or random ones drawn with `seed`. Several
    processes that call this together share the work.

    Raises:
        UserError: see `rq_dino`.
    """
    check_settings(settings)
    _warn_if_random(settings, "image_tokenizer=features")
    device, show_progress = processes.own(torch.device(device)), show_progress and is_first()
    with _own_random(device):
        with processes.one_after_the_other():  # the weights may be downloaded
            torch.manual_seed(seed)
            backbone = make_backbone(settings).to(device)
        once = replace(settings, cache_gb=0.0)  # each image is read only once, so cache none
        pixels = Pixels(images, once, n_workers)
        return encode(backbone, pixels, settings, device, show_progress), to_tensors(backbone)


def _own_random(device: torch.device | str) -> Any:
    """Within this block, random draws do not affect the global random state."""
    kind = torch.device(device).type
    devices = range(torch.cuda.device_count()) if kind == "cuda" else []
    return torch.random.fork_rng(devices=list(devices))


def _warn_if_random(settings: RQDinoSettings, what: str) -> None:
    if not settings.weights:
        getLogger().warning(
            f"image: with random weights in the backbone, {what} captures little more than "
            "colours: set image_weights (hub, or a file)."
        )
