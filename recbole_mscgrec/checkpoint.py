"""Checkpoints of plain tensors, numbers, strings, lists and dicts, for every model.

RecBole pickles its Config object into each checkpoint, which torch >= 2.6 refuses to load and which
could run code on loading. Here the same file holds plain values only and is read with
`weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from torch import nn

# Settings that change neither the data nor the training: they do not count for --resume.
_PRESENTATION = (
    "config_files data_path gpu_id log_wandb model_file resume result_file show_progress state"
    " wandb_project checkpoint_dir cache_dir device local_rank single_spec worker image_workers"
    " eval_drop_modality per_user_file test_metrics codes_dir codes_title_column codes_words_column"
).split()
_ARRAY, _SPARSE = "__numpy__", "__csr__"


def install() -> None:
    """Make RecBole's trainers write and read plain checkpoints."""
    if getattr(Trainer._save_checkpoint, "plain", False):
        return

    def _save_checkpoint(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save(path, trainer_state(self, epoch))
        if verbose:
            self.logger.info(f"Saving current: {path}")

    _save_checkpoint.plain = True
    Trainer._save_checkpoint = _save_checkpoint
    original = AbstractRecommender.load_other_parameter

    def load_other_parameter(self: Any, para: Any) -> None:
        original(self, from_plain(para))

    AbstractRecommender.load_other_parameter = load_other_parameter


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


def trainer_state(trainer: Any, epoch: int) -> dict[str, Any]:
    """All that RecBole's `evaluate` and `resume_checkpoint` read, as plain values; and `chosen`,
    the settings that the user gave."""
    return {
        "config": to_plain(trainer.config.final_config_dict),
        "chosen": to_plain(trainer.config.external_config_dict),
        "epoch": epoch,
        "cur_step": trainer.cur_step,
        "best_valid_score": float(trainer.best_valid_score),
        "state_dict": dict(trainer.model.state_dict()),
        # Modules among them are part of state_dict already.
        "other_parameter": {
            k: to_plain(v)
            for k, v in trainer.model.other_parameter().items()
            if not isinstance(v, nn.Module)
        },
        "optimizer": trainer.optimizer.state_dict() if trainer.optimizer else {},
    }


def to_plain(value: Any) -> Any:
    """Copy of `value` in types that torch.load(weights_only=True) accepts; the rest as strings."""
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {k if isinstance(k, (str, int)) else str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(v) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if scipy.sparse.issparse(value):
        csr = value.tocsr()
        return {
            _SPARSE: [to_plain(a) for a in (csr.data, csr.indices, csr.indptr)],
            "shape": list(csr.shape),
        }
    return str(value)


def from_plain(value: Any) -> Any:
    """Undo `to_plain` for numpy arrays and sparse matrices."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return value[_ARRAY].numpy()
        if _SPARSE in value:
            parts = tuple(from_plain(a) for a in value[_SPARSE])
            return scipy.sparse.csr_matrix(parts, shape=tuple(value["shape"]))
        return {k: from_plain(v) for k, v in value.items()}
    return value


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write to a temporary name beside `path`, then rename: a stop leaves the old file whole."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(
            f"Cannot write the checkpoint {path}: {error}. Free space there or set checkpoint_dir."
        ) from error


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    required: tuple[str, ...] = ("config", "state_dict", "epoch"),
    key: str = "model_file",
) -> dict[str, Any]:
    """Read a checkpoint without running code from it. `key` is the setting that names it.

    Raises:
        ValueError: the file is missing, damaged, lacks a required key, or holds something other
            than plain values.
    """
    if not Path(path).is_file():
        raise ValueError(f"{key} ({path}) does not exist: check the path.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or a pickled file
        raise ValueError(
            f"{path} is damaged or not a checkpoint of plain tensors ({type(error).__name__}). "
            "Checkpoints that stock RecBole wrote hold pickled objects and are not loaded, because "
            "that could run code: train again with this command."
        ) from error
    missing = set(required) - set(state if isinstance(state, dict) else ())
    if missing:
        raise ValueError(f"{path} is not such a checkpoint: it lacks {', '.join(sorted(missing))}.")
    return state


def random_state(train_data: Any = None) -> dict[str, Any]:
    """State of every random generator that training draws from; `train_data` is a loader."""
    version, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [version, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }
    if train_data is not None:
        state["loader"] = train_data.generator.get_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any], train_data: Any = None) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    if train_data is not None:
        train_data.generator.set_state(state["loader"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
