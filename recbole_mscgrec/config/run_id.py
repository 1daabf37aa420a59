"""The settings that affect training. They identify a run: the same settings find its files again,
and a trained model cannot be used with other values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_mscgrec.storage.checkpoint import to_plain
from recbole_mscgrec.storage.errors import UserError

# In addition to the settings of the data set, of RecBole's training, and of the model's YAML files.
_ALSO = (
    "seed reproducibility eval_args repeatable valid_metric valid_metric_bigger exclude_seen"
    " matmul_precision amp_dtype enable_amp enable_scaler"
    " text_columns encoding loss_type initial_model"
    " MAX_ITEM_LIST_LENGTH selected_features pooling_mode discretization kg_reverse_r"
    " numerical_features"
    " entity_kg_num_interval relation_kg_num_interval alias_of_entity_id alias_of_relation_id"
).split()
# In these lists, but without effect on training.
_NO_PART = frozenset(
    """loss_decimal_place eval_batch_size cache_dir text_batch_size image_workers image_cache_gb
    compile codes_dir codes_title_column codes_words_column rescore_model rescore_weight
    eval_drop_modality""".split()
)
# They affect validation, and so when training stops; a trained model can be tested with other
# values.
_AFTER_TRAINING = frozenset(
    """exclude_seen beam_size transition_weight valid_metric valid_metric_bigger matmul_precision
    initial_model repeatable""".split()
)
# Settings of the test of a trained model: part of the result, not of the training.
MEASURED = (
    "metrics topk test_metrics eval_batch_size rescore_model rescore_weight eval_drop_modality"
).split()
SPLIT = ("split", "order", "group_by")  # of eval_args; `mode` may change after training
# Which items there are, which of their interactions train a model, and in what order.
_DATA = (
    "dataset benchmark_filename user_inter_num_interval item_inter_num_interval val_interval"
    " unused_col rm_dup_inter filter_inter_by_user_or_item USER_ID_FIELD ITEM_ID_FIELD TIME_FIELD"
).split()
# Models that differ in one of these are validated on other data or by another measure.
DEFINES_VALIDATION = frozenset(
    {*_DATA, "seed", "eval_args", "repeatable", "exclude_seen", "threshold", "load_col"}
    | {"valid_metric", "valid_metric_bigger", "metric_decimal_place"}
)


def training_keys(model_keys: Iterable[str]) -> frozenset[str]:
    """The keys that affect training, for a model whose YAML files have `model_keys`."""
    from recbole.utils import argument_list  # registration imports this module before RecBole

    keys = {*argument_list.dataset_arguments, *argument_list.training_arguments, *model_keys}
    return frozenset(keys | set(_ALSO)) - _NO_PART


def settings_of(config: Any) -> dict[str, Any]:
    """All settings that a result depends on, including defaults, as plain values. Those that
    `compat.catalogue` lowered have their original values."""
    keys = sorted(config.training_keys | set(MEASURED))
    return {key: to_plain(config.uncut.get(key, config[key])) for key in keys if key in config}


def cannot_change(key: str, value: Any, trained: Any, keys: frozenset[str]) -> bool:
    """Whether a model trained with the value `trained` cannot be used with `value`."""
    if key not in keys or key in _AFTER_TRAINING:
        return False
    value, trained = to_plain(value), to_plain(trained)
    if key == "eval_args" and isinstance(value, dict) and isinstance(trained, dict):
        return any(k in value and value[k] != trained.get(k) for k in SPLIT)
    return value != trained


def check_same_data(
    key_name: str, file: Any, trained: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Check that a saved model saw the data and the split of this run.

    Args:
        key_name: the setting that names the saved model.
        file: its value.
        trained, ours: all settings of that model's run, and of this one.

    Raises:
        UserError: the data differ, so that item ids would not match, or the split differs, so that
            the model may have been trained on its test targets.
    """
    there = _data_settings(trained)
    for key, value in _data_settings(ours).items():
        if value != there[key]:
            raise UserError(
                f"{key_name} ({file}) was trained with {key} {there[key]}, this run has {value}: "
                "both need the same items and the same split."
            )


def _data_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    args = settings["eval_args"]
    split = {f"eval_args {part}": to_plain(args.get(part)) for part in SPLIT}
    if "RO" in str(args.get("order")):  # a random split depends on the seed
        split["seed"] = settings.get("seed")
    return {key: to_plain(settings.get(key)) for key in _DATA} | split


def path_of(config: Any) -> Path:
    """The checkpoint of the best model of a run, whose name depends on the settings."""
    text = json.dumps(config.names_the_run, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{digest}.pth"


def last_of(config: Any) -> Path:
    """The checkpoint of the last finished epoch of a run, for --resume=True."""
    return path_of(config).with_suffix(".last.pth")
