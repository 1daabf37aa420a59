"""Checks, before anything is trained, whether several processes can train one model together."""

from __future__ import annotations

from typing import Any

from recbole.trainer import Trainer
from recbole.utils import get_trainer

from recbole_mscgrec.config import run_id
from recbole_mscgrec.data.train_rows import train_rows
from recbole_mscgrec.plugin.tokenizer_model import MSCGRecTokenizerTrainer
from recbole_mscgrec.plugin.trainer import MSCGRecTrainer
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

# Other trainers have their own loops: they count, train in stages, or pass the data to a library.
_TRAINERS = (Trainer, MSCGRecTrainer, MSCGRecTokenizerTrainer)


def check_together(config: Any) -> None:
    """Check that the processes have the same settings, and that several processes can train this
    model.

    Raises:
        UserError: they have not, or cannot.
    """
    if processes.count() == 1:
        return
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    if trainer not in _TRAINERS:
        raise UserError(
            f"{config['model']} is trained by RecBole's {trainer.__name__}, which cannot share the "
            "work: start one process, without torchrun and --nproc."
        )
    names = ("model", "dataset", "model_file", "resume")
    named = {name: str(config[name]) for name in names}
    processes.check_same("The settings", {**named, **run_id.settings_of(config)})
    processes.check_same("The kind of device", config["device"].type)


def check_same_model(network: Any, train_data: Any) -> None:
    """Raise UserError if train rows, item codes or initial weights differ between processes."""
    if processes.count() == 1:
        return
    processes.check_same("The train split", train_rows(train_data._dataset))
    if hasattr(network, "code_state"):
        processes.check_same("The item codes", network.code_state["table"])
    processes.check_same("The initial weights", dict(network.state_dict()))
