"""Checks the combinations of MSCGRec's settings, before anything is read or trained. The values of
single settings are checked in ranges.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mscgrec.network.blocks import check_heads
from recbole_mscgrec.network.relative_bias import check_buckets
from recbole_mscgrec.semantic_ids.code_table import FUSED
from recbole_mscgrec.storage.errors import UserError

_ANY = object()  # any value but 0
# A key and its value, another key and the value that it then needs, and the reason.
_NEEDS = (
    (
        *("encoder_attention", "bidirectional", "train_rows", "prefix"),
        "in a tiled window a bidirectional encoder would see the targets",
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
        *("learned_items", _ANY, "history_tokens", "item"),
        "the item's vector cannot be added to a token of a single code",
    ),
    (
        *("transition_weight", _ANY, "constrained_training", True),
        "the transitions are a distribution over real items",
    ),
)


FIT = "fit"  # a value of rescore_weight
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
    check_heads(config["hidden_size"], config["n_heads"])
    check_buckets(config["n_distance_buckets"], config["max_distance"])
    of_sasrec = ("collaborative_size", "collaborative_n_heads")
    check_heads(config[of_sasrec[0]], config[of_sasrec[1]], of_sasrec)
    weights = rescore_weights(
        config["rescore_weight"], len(rescore_models(config["rescore_model"]))
    )
    if weights is None and config["eval_args"]["mode"]["valid"] != "full":
        raise UserError(
            f"rescore_weight=fit ranks all items of the validation split, and eval_args mode is "
            f"{config['eval_args']['mode']['valid']} there: use full, or give the weights."
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


def rescore_models(files: Any) -> tuple[str, ...]:
    """The files that `rescore_model` names: none, one or a list.

    Raises:
        UserError: it names something else, or a file twice.
    """
    many = files if isinstance(files, (list, tuple)) else [] if files is None else [files]
    if not all(isinstance(file, (str, Path)) for file in many) or len(set(many)) < len(many):
        raise UserError(
            f"rescore_model ({files}) must be a saved model, or a list of different ones: "
            "--rescore_model=\"['saved/A.pth', 'saved/B.pth']\"."
        )
    return tuple(str(file) for file in many)


def rescore_weights(value: Any, n_others: int) -> tuple[float, ...] | None:
    """The weights of this run's model and of the `n_others` models, in this order; they sum to 1.

    Args:
        value: the setting `rescore_weight`: a list with one weight for each of the others, one
            number that they share, None for equal weights of all models, or `FIT`.
        n_others: number of models in `rescore_model`.

    Returns:
        n_others + 1 weights; None if they are to be fitted.

    Raises:
        UserError: `value` is none of these.
    """
    if value == FIT:
        return None
    if value is None:
        value = n_others / (n_others + 1)
    many = isinstance(value, (list, tuple))
    others = list(value) if many else [value] * n_others
    is_number = [
        isinstance(w, (int, float)) and not isinstance(w, bool) and 0 <= w <= 1
        for w in (others if many else [value])
    ]
    if not all(is_number) or (many and (len(others) != n_others or sum(others) > 1 + 1e-6)):
        raise UserError(
            f"rescore_weight ({value}) must be a number from 0 to 1, which the models of "
            f"rescore_model share, a list of {n_others} such numbers with a sum of at most 1, one "
            f"for each of them, or {FIT}: weights fitted on validation."
        )
    if not many:
        others = [w / n_others for w in others]
    return (max(0.0, 1 - sum(others)), *others)


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
        given, found = config[key], config[other]
        applies = bool(given) if value is _ANY else given == value
        if applies and found != needed:
            raise UserError(f"{key}={given} needs {other}={needed}, not {found}: {reason}.")
