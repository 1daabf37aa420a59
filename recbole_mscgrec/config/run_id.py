"""Which settings name a run: the same settings find its files again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recbole_mscgrec.storage.checkpoint import to_plain

# Settings that change neither the data nor the training: they do not count for --resume.
_PRESENTATION = (
    "config_files data_path gpu_id log_wandb model_file resume result_file show_progress state"
    " wandb_project checkpoint_dir cache_dir device local_rank single_spec worker image_workers"
    " eval_drop_modality per_user_file test_metrics codes_dir codes_title_column codes_words_column"
).split()


def is_setting(key: str) -> bool:
    """Whether the trained model depends on this key."""
    return key not in _PRESENTATION


def path_of(config: Any) -> Path:
    """Where the best model of a run is saved: a name that the same settings find again."""
    settings = {k: v for k, v in config.final_config_dict.items() if is_setting(k)}
    text = json.dumps(to_plain(settings), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{digest}.pth"


def last_of(config: Any) -> Path:
    """Where a run keeps its last finished epoch, from which --resume=True goes on."""
    return path_of(config).with_suffix(".last.pth")
