"""Makes RecBole's trainers and models write and read checkpoints of plain values.

RecBole pickles its Config object into each checkpoint, which torch >= 2.6 refuses to load and which
could run code on loading. The same holds for files of pretrained weights, from another model or
from an earlier training stage of the same model.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage import processes, schema
from recbole_mscgrec.storage.checkpoint import from_plain, load, save, to_plain
from recbole_mscgrec.storage.digest import made_by
from recbole_mscgrec.storage.errors import UserError

# Module of a model that starts from pretrained weights -> the settings that name their files.
_BEGIN_AT = {
    "context_aware_recommender.kd_dagfm": "warm_up",
    "general_recommender.convncf": "pre_model_path",
    "general_recommender.nais": "pretrain_path",
    "general_recommender.neumf": "mf_pretrain_path and mlp_pretrain_path",
    "general_recommender.ract": "pre_model_path",
    "sequential_recommender.s3rec": "pre_model_path",
}


def install() -> None:
    """Make RecBole's trainers and models write and read plain files."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.trainer import Trainer
    from recbole.trainer.trainer import DecisionTreeTrainer, PretrainTrainer

    if getattr(Trainer._save_checkpoint, "plain", False):
        return

    def _save_checkpoint(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if not processes.is_first():
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save(path, trainer_state(self, epoch))
        if verbose:
            self.logger.info(f"Saving current: {path}")

    Trainer._save_checkpoint = _save_checkpoint
    Trainer._save_checkpoint.plain = True
    original = AbstractRecommender.load_other_parameter

    def load_other_parameter(self: Any, para: Any) -> None:
        original(self, None if para is None else from_plain(para))

    AbstractRecommender.load_other_parameter = load_other_parameter

    def save_pretrained_model(self: Any, epoch: int, saved_model_file: str) -> None:
        save(saved_model_file, trainer_state(self, epoch))
        self.saved_model_file = saved_model_file

    PretrainTrainer.save_pretrained_model = save_pretrained_model
    # The trees themselves are in a file of their library, from which the trainer reads them.
    DecisionTreeTrainer._save_checkpoint = lambda self, epoch: None
    for name, key in _BEGIN_AT.items():
        module = importlib.import_module(f"recbole.model.{name}")
        module.torch = _Instead(torch, load=_weights_of(key), save=_save_weights)  # type: ignore
    ldiffrec = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    ldiffrec.np = _Instead(np, load=_load_array)  # type: ignore[attr-defined]


class _Instead(ModuleType):
    """A module with some functions replaced, as a single module of RecBole sees it."""

    def __init__(self, module: ModuleType, **functions: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _weights_of(key: str) -> Any:
    def plain(path: str | None, map_location: Any = "cpu", **_: Any) -> dict[str, Any]:
        if not path:
            raise UserError(f"{key} is not set: it names the checkpoint the model starts from.")
        return load(path, map_location, {"state_dict": schema.WEIGHTS}, key)

    return plain


def _save_weights(model: nn.Module, path: str) -> None:
    save(path, {"state_dict": model.state_dict()})


def _load_array(path: str, **_: Any) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be an array of numbers: {error}") from error


def check_other_parts(state: dict[str, Any], model: Any, name: str) -> None:
    """Raise UserError if the checkpoint `name` holds a part that the model does not have: RecBole
    would set it as an attribute of the model."""
    strange = set(state.get("other_parameter") or {}) - set(model.other_parameter())
    if strange:
        raise UserError(
            f"{name} holds {sorted(strange)[:3]}, which a {type(model).__name__} does not have: it "
            "was not saved by this model."
        )


def trainer_state(trainer: Any, epoch: int) -> dict[str, Any]:
    """The checkpoint of a trainer, as plain values: what RecBole's `evaluate` and
    `resume_checkpoint` read.

    It also holds `settings`, everything that the training depends on, including defaults and
    presets; `chosen`, the settings that the user gave; `train_rows`, the fingerprint of the rows it
    is trained on; and `made_by`, the version and commit of this package.
    """
    config = trainer.config
    return {
        "made_by": made_by(),
        "settings": run_id.settings_of(config) if hasattr(config, "training_keys") else {},
        "config": to_plain(trainer.config.final_config_dict),
        "chosen": to_plain(trainer.config.external_config_dict),
        "train_rows": getattr(trainer, "train_rows", None),
        "epoch": epoch,
        "cur_step": trainer.cur_step,
        "best_valid_score": float(trainer.best_valid_score),
        "state_dict": dict(trainer.model.state_dict()),
        # Modules are already part of state_dict.
        "other_parameter": {
            k: to_plain(v)
            for k, v in trainer.model.other_parameter().items()
            if not isinstance(v, nn.Module)
        },
        "optimizer": trainer.optimizer.state_dict() if trainer.optimizer else {},
    }
