"""Makes RecBole's trainers write and read checkpoints of plain values.

RecBole pickles its Config object into each checkpoint, which torch >= 2.6 refuses to load, because
loading a pickle can run code.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage.checkpoint import from_plain, save, to_plain
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.provenance import made_by


def install() -> None:
    """Make RecBole's trainers write and read plain checkpoints."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.trainer import Trainer

    if getattr(Trainer._save_checkpoint, "plain", False):
        return

    def _save_checkpoint(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if self.config.final_config_dict.get("local_rank", 0) != 0:
            return  # of several processes, one writes
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


def check_other_parts(state: dict[str, Any], model: Any, name: str) -> None:
    """Raise UserError if the checkpoint `name` holds a part that the model does not have, since
    RecBole would set any attribute of it."""
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
