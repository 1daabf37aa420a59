"""The switches between this project's form of the model and the paper's, and which of them fit
together. Checked before anything is read or trained."""

from __future__ import annotations

from typing import Any

from recbole_mscgrec.storage.errors import UserError

CHOICES = {
    "encoder": ("attention", "gru"),
    "encoder_attention": ("item_causal", "bidirectional"),
    "history_tokens": ("item", "code"),
    "train_rows": ("tiled", "prefix"),
    "decoder": ("item_aware", "t5"),
    "collaborative_source": ("SASRec", "GRU4Rec"),
    "collision": ("extra_level", "redistribute"),
}

# A value of a key, and the value of another key that it needs.
_NEEDS = (
    (
        *("encoder_attention", "bidirectional", "train_rows", "prefix"),
        "in a tiled window an encoder that sees all items would see the targets",
    ),
    (
        *("encoder", "gru", "encoder_attention", "item_causal"),
        "a recurrent encoder reads a history in its order",
    ),
    (
        *("encoder", "gru", "history_tokens", "item"),
        "a recurrent encoder reads one token per item",
    ),
    (
        *("code_bias", True, "history_tokens", "code"),
        "with one token per item there is no place inside an item",
    ),
    (
        *("history_vectors", True, "history_tokens", "item"),
        "a token of one code has no place for the item's vectors",
    ),
    (
        *("learned_vectors", True, "history_tokens", "item"),
        "a token of one code has no place for the item's vector",
    ),
)


def check_switches(config: Any) -> None:
    """Raise UserError for a value that a switch does not have, or a combination that cannot work,
    with the reason."""
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise UserError(f"{key} ({config[key]!r}) must be one of {', '.join(choices)}.")
    for key, value, other, needed, reason in _NEEDS:
        if config[key] == value and config[other] != needed:
            raise UserError(f"{key}={value} needs {other}={needed}, not {config[other]}: {reason}.")
    for key in ("modality_mask_prob", "neighbour_prob"):
        value = config[key]
        if not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise UserError(f"{key} ({value!r}) must be at least 0 and below 1.")
