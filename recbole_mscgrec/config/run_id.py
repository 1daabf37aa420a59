"""Which settings change a training: they name a run, so that the same settings find its files
again, and they cannot be changed for a model that is already trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_mscgrec.storage.checkpoint import to_plain

# Beside the data set's, RecBole's training settings and those of the model's YAML files.
_ALSO = (
    "seed reproducibility eval_args repeatable valid_metric valid_metric_bigger exclude_seen"
    " matmul_precision text_columns encoding loss_type initial_model enable_amp enable_scaler"
    " MAX_ITEM_LIST_LENGTH selected_features pooling_mode discretization kg_reverse_r"
    " numerical_features"
    " entity_kg_num_interval relation_kg_num_interval alias_of_entity_id alias_of_relation_id"
).split()
# In these lists, but without a part in what is trained.
_NO_PART = frozenset(
    """loss_decimal_place eval_batch_size cache_dir text_batch_size image_workers image_cache_gb
    codes_dir codes_title_column codes_words_column rescore_model rescore_weight
    eval_drop_modality""".split()
)
# They decide what training validates and so stops at; a trained model can be tested under others.
_AFTER_TRAINING = frozenset(
    """exclude_seen beam_size valid_metric valid_metric_bigger matmul_precision initial_model
    repeatable""".split()
)
# What is measured of a trained model, and how: part of a result, not of the training.
MEASURED = (
    "metrics topk test_metrics eval_batch_size rescore_model rescore_weight eval_drop_modality"
).split()
SPLIT = ("split", "order", "group_by")  # of eval_args; `mode` may change after training


def training_keys(model_keys: Iterable[str]) -> frozenset[str]:
    """The keys that change a training, for a model whose YAML files have `model_keys`."""
    from recbole.utils import argument_list  # registration imports this module before RecBole

    keys = {*argument_list.dataset_arguments, *argument_list.training_arguments, *model_keys}
    return frozenset(keys | set(_ALSO)) - _NO_PART


def settings_of(config: Any) -> dict[str, Any]:
    """All settings that a result depends on, defaults included, as plain values; those that
    `data.catalogue` cut as they were before."""
    keys = sorted(config.training_keys | set(MEASURED))
    return {key: to_plain(config.uncut.get(key, config[key])) for key in keys if key in config}


def cannot_change(key: str, value: Any, trained: Any, keys: frozenset[str]) -> bool:
    """Whether a model that was trained with `trained` cannot be used with `value`."""
    if key not in keys or key in _AFTER_TRAINING:
        return False
    value, trained = to_plain(value), to_plain(trained)
    if key == "eval_args" and isinstance(value, dict) and isinstance(trained, dict):
        return any(k in value and value[k] != trained.get(k) for k in SPLIT)
    return value != trained


def path_of(config: Any) -> Path:
    """Where the best model of a run is saved: a name that the same settings find again."""
    text = json.dumps(config.names_the_run, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{digest}.pth"


def last_of(config: Any) -> Path:
    """Where a run keeps its last finished epoch, from which --resume=True goes on."""
    return path_of(config).with_suffix(".last.pth")
