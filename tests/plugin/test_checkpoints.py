"""Checkpoints of RecBole's trainers."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.utils import get_trainer
from tiny import build, protocol


@pytest.mark.parametrize("rank, written", [(0, True), (1, False)])
def test_one_of_several_processes_writes(rule_folder: Path, rank: int, written: bool) -> None:
    built = build("SASRec", "rule", protocol(rule_folder))
    trainer = get_trainer(built.config["MODEL_TYPE"], "SASRec")(built.config, built.model)
    built.config["local_rank"] = rank
    trainer._save_checkpoint(0, verbose=False)
    assert Path(trainer.saved_model_file).is_file() is written
