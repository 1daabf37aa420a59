"""Settings of RQ-DINO: the keys image_NAME of properties/model/MSCGRec.yaml, and their rules."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

SINKHORN, CENTRE = "sinkhorn", "centre"


class DinoSettings(NamedTuple):
    """Every field NAME is the YAML key image_NAME, where its meaning stands."""

    backbone: str
    backbone_args: dict[str, Any]
    weights: str | None
    projection: int | None
    size: int
    local_size: int
    n_local_crops: int
    global_scale: list[float]
    local_scale: list[float]
    colour_jitter: float
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: list[float]
    clip_norm: float
    drop_path: float
    head_size: int
    out_dim: int
    freeze_last_layer: int
    student_temperature: float
    teacher_temperature: float
    teacher_balance: str
    teacher_momentum: float
    spread: float
    quantize: bool
    quantize_after: int
    commitment: float
    codebook_decay: float
    restart_below: float
    cache_gb: float


_COUNTS = "size local_size epochs batch_size head_size out_dim".split()
_NOT_NEGATIVE = (
    "n_local_crops warmup_epochs freeze_last_layer quantize_after spread commitment colour_jitter"
    " cache_gb"
).split()
_POSITIVE = "learning_rate clip_norm student_temperature teacher_temperature".split()
_SHARES = "drop_path teacher_momentum codebook_decay restart_below".split()
_PAIRS = "global_scale local_scale weight_decay".split()


def check_settings(settings: DinoSettings) -> None:
    """Raise ValueError for a value outside its range; the key is named."""
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


def _require(settings: DinoSettings, name: str, rule: Any, wanted: str) -> None:
    value = getattr(settings, name)
    numbers = value if isinstance(value, (list, tuple)) else [value]
    finite = all(math.isfinite(v) for v in numbers if isinstance(v, (int, float)))
    try:
        fits = finite and rule(value)
    except TypeError:  # a list where a number is wanted, or the other way round
        fits = False
    if not fits:
        raise ValueError(f"image_{name} ({value!r}) must be {wanted}.")
