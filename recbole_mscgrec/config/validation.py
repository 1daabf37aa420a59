"""Checks the combinations of MSCGRec's settings, before anything is read or trained. The values of
single settings are checked in ranges.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mscgrec.network.relative_bias import check_buckets
from recbole_mscgrec.semantic_ids.code_table import FUSED
from recbole_mscgrec.storage.errors import UserError

# A value of a key, the value of another key that it needs, and the reason.
_NEEDS = (
    (
        *("encoder_attention", "bidirectional", "train_rows", "prefix"),
        "in a tiled window a bidirectional encoder would see the targets",
    ),
    (
        *("encoder", "gru", "encoder_attention", "item_causal"),
        "a recurrent encoder reads a history in order",
    ),
    (
        *("encoder", "gru", "history_tokens", "item"),
        "a recurrent encoder reads one token per item",
    ),
    (
        *("compile", True, "encoder", "attention"),
        "torch.compile makes no single graph of recurrent layers",
    ),
    (
        *("code_bias", True, "history_tokens", "code"),
        "with one token per item there are no positions inside an item",
    ),
    (
        *("history_vectors", True, "history_tokens", "item"),
        "the item's vectors cannot be added to a token of a single code",
    ),
    (
        *("learned_vectors", True, "history_tokens", "item"),
        "the item's vector cannot be added to a token of a single code",
    ),
)


# Modalities with their own stage; others need a file.
OWN_STAGES = ("collaborative", "text", "image")


def check(config: Any, n_items: int) -> None:
    """Raise UserError if settings of MSCGRec cannot work, with the reason.

    Args:
        config: RecBole's Config, presets resolved.
        n_items: number of items of the data set, without the padding item.
    """
    _check_switches(config)
    _check_modalities(config)
    check_buckets(config["n_distance_buckets"], config["max_distance"])
    size, n_heads = config["collaborative_size"], config["collaborative_n_heads"]
    if config["collaborative_source"] == "SASRec" and size % n_heads:
        raise UserError(
            f"collaborative_n_heads ({n_heads}) must divide collaborative_size ({size})."
        )
    sizes = level_sizes(config["n_levels"], config["codebook_size"])
    made_here = set(config["modalities"]) - set(config["codes_file"] or ())
    if max(sizes) > n_items and made_here:
        raise UserError(
            f"codebook_size ({max(sizes)}) must not exceed the number of items ({n_items}): "
            "lower codebook_size."
        )


def level_sizes(n_levels: int, codebook_size: Any) -> tuple[int, ...]:
    """Codewords per level: `codebook_size`, one number for all `n_levels` or one for each."""
    many = isinstance(codebook_size, (list, tuple))
    sizes = tuple(codebook_size) if many else (codebook_size,) * n_levels
    if len(sizes) != n_levels or any(not isinstance(s, int) or s < 2 for s in sizes):
        raise UserError(
            f"codebook_size ({codebook_size}) must be a whole number of at least 2, or a "
            f"list of n_levels ({n_levels}) such numbers."
        )
    return sizes


def _check_modalities(config: Any) -> None:
    names = config["modalities"]
    files = {key: config[key] or {} for key in ("vectors_file", "codes_file")}
    known = sorted({*OWN_STAGES, *(name for mapping in files.values() for name in mapping)})
    unfit = [n for n in names if n not in known or not n.isidentifier() or n == FUSED]
    if unfit or not names or len(set(names)) != len(names):
        raise UserError(
            f"modalities ({names}) must be a list of different names out of {known}; any other "
            "modality needs a file: --vectors_file=\"{'NAME': 'vectors.npz'}\" or codes_file."
        )
    for key, mapping in files.items():
        strange = [name for name, file in mapping.items() if not isinstance(file, (str, Path))]
        if strange:
            raise UserError(
                f"{key} ({mapping}) must name a file for {strange[0]}: "
                f"--{key}=\"{{'{strange[0]}': 'vectors.npz'}}\"."
            )
        stray = sorted(set(mapping) - set(names) - set(OWN_STAGES))
        if stray:
            raise UserError(f"{key} names {stray}, which is not in modalities ({names}): add it.")
    for key, more in (("target_modality", [FUSED]), ("eval_drop_modality", [])):
        if config[key] not in (None, *names, *more):
            raise UserError(f"{key} ({config[key]}) must be one of modalities ({names}).")


def _check_switches(config: Any) -> None:
    for key, value, other, needed, reason in _NEEDS:
        if config[key] == value and config[other] != needed:
            raise UserError(f"{key}={value} needs {other}={needed}, not {config[other]}: {reason}.")
