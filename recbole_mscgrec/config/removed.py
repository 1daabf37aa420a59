"""Settings of earlier versions: their replacements, and how settings of saved runs are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_mscgrec.storage.errors import UserError

# Key -> (its default, what to do). In a saved run, the default is treated as if the key were
# absent.
REMOVED: dict[str, tuple[Any, str]] = {
    "quantizer": ("kmeans", "codebooks come from k-means; leave it out"),
    "random_windows": (False, "windows are cut at fixed places; leave it out"),
    "constrained_decoding": ("hard", "every result is a real item; leave it out"),
    "soft_penalty": (5.0, "every result is a real item; leave it out"),
    "item_bias": (True, "the encoder has a relative bias over items; leave it out"),
    "collaborative_source": (
        "SASRec",
        "the collaborative vectors come from SASRec; for those of another model use "
        "vectors_file={'collaborative': FILE}",
    ),
    "collaborative_similarity": ("dot", "SASRec is trained with inner products; leave it out"),
    "collaborative_settings": ({}, "use collaborative_size, collaborative_epochs, ..."),
    "shuffle_codes": (False, "run benchmarks/shuffled_codes.py"),
    "image_features": (None, "use vectors_file={'image': FILE}"),
    "seen_items": ("all", "use exclude_seen: none, all or history"),
    "start_token": ("history", "use decoder: item_aware or t5"),
    "cross_bias": (True, "use decoder: item_aware or t5"),
    "learned_vectors": (
        False,
        "use learned_items: the number of the most frequent items that get a learned vector, 0 for "
        "none",
    ),
    "time_bias": (False, "the time between items is not read; leave it out"),
    "request_time": (False, "the time of the request is not read; leave it out"),
    "encoder": ("attention", "the encoder has attention and short convolutions; leave it out"),
}
# Key that an earlier version did not have -> the value that reproduces its behaviour.
ADDED: dict[str, Any] = {"conv_kernel_size": 0, "transition_weight": 0.0, "learned_items": 0}
_IMAGE = (
    "global_scale local_scale colour_jitter warmup_epochs weight_decay clip_norm drop_path"
    " head_size out_dim freeze_last_layer student_temperature teacher_temperature teacher_balance"
    " teacher_momentum spread quantize quantize_after commitment codebook_decay restart_below"
).split()
for _name in _IMAGE:
    REMOVED[f"image_{_name}"] = (
        None,
        f"it is a constant now; RQDinoSettings({_name}=...) still has it in Python",
    )
_DECODERS = {("history", True): "item_aware", ("learned", False): "t5"}
_ITEM_VECTORS = "network.history.item_embedding.weight"
_ALL = 2**31 - 1  # items; more than any catalogue has
# These affect only the codes, and a saved model contains its codes.
_MADE_CODES = (
    *("collaborative_source", "collaborative_similarity", "collaborative_settings"),
    *(f"image_{name}" for name in _IMAGE),
)


def check_not_removed(key: str) -> None:
    """Raise UserError for a key of an earlier version, with what to use instead."""
    if key in REMOVED:
        raise UserError(f"{key} is no longer a setting: {REMOVED[key][1]}.")


def of_a_saved_run(
    settings: dict[str, Any], source: str, weights: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a saved run, possibly of an earlier version, under their current names. The
    `weights` of its model tell how many items it had.

    Raises:
        UserError: this version does not support a value; `source` is the file in the message.
    """
    today = {key: value for key, value in settings.items() if key not in REMOVED}
    if isinstance(settings.get("exclude_seen"), bool):
        which = settings.get("seen_items", "all")
        today["exclude_seen"] = which if settings["exclude_seen"] else "none"
    if {"start_token", "cross_bias"} & settings.keys():
        pair = settings.get("start_token", "history"), settings.get("cross_bias", True)
        if pair not in _DECODERS:
            raise UserError(
                f"{source} was trained with start_token={pair[0]} and cross_bias={pair[1]}, which "
                "this version does not have: use the version of this package that trained it."
            )
        today["decoder"] = _DECODERS[pair]
    if isinstance(settings.get("learned_vectors"), bool):
        today["learned_items"] = _n_items(weights or {}) if settings["learned_vectors"] else 0
    if "n_encoder_layers" in settings:
        today = {**ADDED, **today}
    merged = ("seen_items", "start_token", "cross_bias", "learned_vectors", *_MADE_CODES)
    for key in settings.keys() & REMOVED.keys() - set(merged):
        if settings[key] not in (REMOVED[key][0], None):
            raise UserError(
                f"{source} was trained with {key}={settings[key]}, which this version does not "
                "have: use the version of this package that trained it."
            )
    return today


def _n_items(weights: Mapping[str, Any]) -> int:
    """The number of items of a saved model in which all have a learned vector."""
    table = weights.get(_ITEM_VECTORS)
    return _ALL if table is None or not table.dim() else len(table) - 1
