"""Settings of RQ-DINO and their rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recbole_mscgrec.storage.errors import UserError

SINKHORN, CENTRE = "sinkhorn", "centre"


@dataclass(frozen=True)
class RQDinoSettings:
    """The backbone's, and the constants of the training with where they are from.

    The fields without a default are settings of MSCGRec.yaml, as image_NAME.
    """

    backbone: str  # a timm model by name
    backbone_args: dict[str, Any]  # what timm's create_model gets besides
    weights: str | None  # None: from scratch; hub: timm's pretrained weights; or a file
    projection: int | None  # freeze the backbone and learn a linear map to so many numbers
    size: int  # pixels of a global crop and of an encoded image
    local_size: int  # pixels of a local crop
    n_local_crops: int  # local crops per image beside the two global ones
    epochs: int
    batch_size: int  # images per step
    learning_rate: float  # AdamW's, after warm-up
    cache_gb: float  # decoded images stay in memory up to this size
    # Views. Shares of the area as in DINO; colours are part of what an image says, so they stay.
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.1, 0.4)
    colour_jitter: float = 0.0  # DINO: 0.4
    # Optimization, as in DINO unless noted.
    warmup_epochs: float = 1.0  # DINO: 10 of 100
    weight_decay: tuple[float, float] = (0.04, 0.4)  # at the start and at the end
    clip_norm: float = 3.0
    drop_path: float = 0.0  # DINO: 0.1, for larger models
    # Projection head and its prototypes. DINO has 65,536 for a million images.
    head_size: int = 512
    out_dim: int = 1024
    freeze_last_layer: int = 1  # epochs in which the prototypes stay as they are
    # Targets, as in DINO; balanced by Sinkhorn-Knopp within a step as in SwAV and DINOv2, since a
    # running mean needs large batches.
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # above 0.07 is unstable
    teacher_balance: str = SINKHORN  # or CENTRE, DINO's running mean
    teacher_momentum: float = 0.99  # at the start, rises to 1; DINO: 0.996, for long trainings
    spread: float = 0.1  # weight of DINOv2's KoLeo loss: without it few dimensions carry all
    # Residual quantization of the student, with straight-through gradients as in VQ-VAE.
    quantize: bool = True  # False: DINO alone, codes by k-means after training
    quantize_after: int = 1  # epochs: codebooks of random features are soon useless
    commitment: float = 0.25  # weight of the distance to the codewords, as in VQ-VAE
    codebook_decay: float = 0.98  # of the codebooks' running means
    restart_below: float = 0.2  # a codeword used less than this share of the mean restarts


_COUNTS = "size local_size epochs batch_size head_size out_dim".split()
_NOT_NEGATIVE = (
    "n_local_crops warmup_epochs freeze_last_layer quantize_after spread commitment colour_jitter"
    " cache_gb"
).split()
_POSITIVE = "learning_rate clip_norm student_temperature teacher_temperature".split()
_SHARES = "drop_path teacher_momentum codebook_decay restart_below".split()
_PAIRS = "global_scale local_scale weight_decay".split()


def check_settings(settings: RQDinoSettings) -> None:
    """Raise UserError for a value outside its range; the key is named."""
    counts = _COUNTS if settings.projection is None else [*_COUNTS, "projection"]
    for name in counts:
        _require(settings, name, lambda v: v >= 1 and v == int(v), "a whole number of at least 1")
    for name in _NOT_NEGATIVE:
        _require(settings, name, lambda v: v >= 0, "0 or more")
    for name in _POSITIVE:
        _require(settings, name, lambda v: v > 0, "above 0")
    for name in _SHARES:
        _require(settings, name, lambda v: 0 <= v < 1, "from 0 up to, but not, 1")
    for name in _PAIRS:
        _require(settings, name, lambda v: len(v) == 2 and 0 <= v[0] <= v[1], "[low, high], 0 up")
    for name in ("global_scale", "local_scale"):
        _require(settings, name, lambda v: 0 < v[0] and v[1] <= 1, "shares of the area, 0 to 1")
    balances = (SINKHORN, CENTRE)
    _require(settings, "teacher_balance", lambda v: v in balances, f"one of {balances}")


def _require(settings: RQDinoSettings, name: str, rule: Any, wanted: str) -> None:
    value = getattr(settings, name)
    numbers = value if isinstance(value, (list, tuple)) else [value]
    finite = all(math.isfinite(v) for v in numbers if isinstance(v, (int, float)))
    try:
        fits = finite and rule(value)
    except TypeError:  # a list where a number is wanted, or the other way round
        fits = False
    if not fits:
        raise UserError(f"image_{name} ({value!r}) must be {wanted}.")
