"""Settings of RQ-DINO and their valid ranges."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any

from recbole_mscgrec.storage.errors import UserError

SINKHORN, CENTRE = "sinkhorn", "centre"


@dataclass(frozen=True)
class RQDinoSettings:
    """Settings of the backbone and of the training.

    The fields without a default are set in MSCGRec.yaml, as image_NAME. The others are constants;
    the comments say where their values come from.
    """

    backbone: str  # a timm model by name
    backbone_args: dict[str, Any]  # further arguments of timm.create_model
    weights: str | None  # None: from scratch; hub: timm's pretrained weights; or a file
    projection: int | None  # freeze the backbone and learn a linear map to this width
    size: int  # pixels of a global crop and of an encoded image
    local_size: int  # pixels of a local crop
    n_local_crops: int  # local crops per image, besides the two global ones
    epochs: int
    batch_size: int  # images per step
    learning_rate: float  # AdamW's, after warm-up
    cache_gb: float  # decoded images are kept in memory if they fit into this size
    # Views. The scales are shares of the area, as in DINO. Colours carry information about the
    # item, so they are not jittered.
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
    freeze_last_layer: int = 1  # epochs in which the prototypes are not updated
    # Targets, as in DINO, but balanced by Sinkhorn-Knopp within each step, as in SwAV and DINOv2:
    # DINO's running mean needs large batches.
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # above 0.07 is unstable
    teacher_balance: str = SINKHORN  # or CENTRE, DINO's running mean
    teacher_momentum: float = 0.99  # initial value, rises to 1; DINO: 0.996, for longer training
    spread: float = 0.1  # weight of DINOv2's KoLeo loss; without it few dimensions are used
    # Residual quantization of the student, with straight-through gradients as in VQ-VAE.
    quantize: bool = True  # False: DINO alone, codes by k-means after training
    quantize_after: int = 1  # epochs; codebooks fitted to random features soon become useless
    commitment: float = 0.25  # weight of the distance to the codewords, as in VQ-VAE
    codebook_decay: float = 0.98  # decay of the codebooks' running means
    restart_below: float = 0.2  # restart codewords used less than this share of the mean use


_COUNTS = "size local_size epochs batch_size head_size out_dim".split()
_NOT_NEGATIVE = (
    "n_local_crops warmup_epochs freeze_last_layer quantize_after spread commitment colour_jitter"
    " cache_gb"
).split()
_POSITIVE = "learning_rate clip_norm student_temperature teacher_temperature".split()
_SHARES = "drop_path teacher_momentum codebook_decay restart_below".split()
_PAIRS = "global_scale local_scale weight_decay".split()


# The fields that are settings of MSCGRec.yaml, as image_NAME. The others are constants.
CONFIGURABLE = tuple(field.name for field in fields(RQDinoSettings) if field.default is MISSING)


def check_settings(settings: RQDinoSettings) -> None:
    """Raise UserError if a value is outside its range."""
    counts = _COUNTS if settings.projection is None else [*_COUNTS, "projection"]
    for name in counts:
        _require(settings, name, lambda v: v >= 1 and v == int(v), "a whole number of at least 1")
    for name in _NOT_NEGATIVE:
        _require(settings, name, lambda v: v >= 0, "0 or more")
    for name in _POSITIVE:
        _require(settings, name, lambda v: v > 0, "above 0")
    for name in _SHARES:
        _require(settings, name, lambda v: 0 <= v < 1, "at least 0 and below 1")
    for name in _PAIRS:
        _require(
            settings,
            name,
            lambda v: len(v) == 2 and 0 <= v[0] <= v[1],
            "0 <= low <= high",
        )
    for name in ("global_scale", "local_scale"):
        _require(settings, name, lambda v: 0 < v[0] and v[1] <= 1, "shares of the area")
    balances = (SINKHORN, CENTRE)
    _require(settings, "teacher_balance", lambda v: v in balances, f"one of {balances}")


def _require(settings: RQDinoSettings, name: str, rule: Any, wanted: str) -> None:
    value = getattr(settings, name)
    numbers = value if isinstance(value, (list, tuple)) else [value]
    finite = all(math.isfinite(v) for v in numbers if isinstance(v, (int, float)))
    try:
        fits = finite and rule(value)
    except TypeError:  # a list instead of a number, or vice versa
        fits = False
    if not fits:
        shown = f"image_{name}" if name in CONFIGURABLE else f"RQDinoSettings.{name}"
        raise UserError(f"{shown} ({value!r}) must be {wanted}.")
