"""RecBole's own look-ups find this project's classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.data import create_dataset
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_model, get_trainer
from tiny import protocol, settings

from recbole_mscgrec.config import Config
from recbole_mscgrec.dataset import TiledDataset
from recbole_mscgrec.mscgrec import MSCGRec
from recbole_mscgrec.tiled_models import TiledSASRec
from recbole_mscgrec.tokenizer_model import MSCGRecTokenizer, MSCGRecTokenizerTrainer
from recbole_mscgrec.trainer import MSCGRecTrainer


@pytest.mark.parametrize("model", [MSCGRec, MSCGRecTokenizer, TiledSASRec])
def test_models_by_name(model: type) -> None:
    assert get_model(model.__name__) is model


def test_trainers_by_name() -> None:
    assert get_trainer(ModelType.SEQUENTIAL, "MSCGRec") is MSCGRecTrainer
    assert get_trainer(ModelType.SEQUENTIAL, "MSCGRecTokenizer") is MSCGRecTokenizerTrainer
    assert get_trainer(ModelType.SEQUENTIAL, "TiledSASRec") is Trainer


@pytest.mark.parametrize("model", ["MSCGRec", "MSCGRecTokenizer", "TiledSASRec"])
def test_data_sets_by_name(rule_folder: Path, model: str) -> None:
    chosen = protocol(rule_folder) if model == "TiledSASRec" else settings(rule_folder)
    assert type(create_dataset(Config(model, "rule", config_dict=chosen))) is TiledDataset


def test_stock_models_keep_their_own_classes(rule_folder: Path) -> None:
    config = Config("SASRec", "rule", config_dict=protocol(rule_folder))
    assert not isinstance(create_dataset(config), TiledDataset)
    assert get_model("SASRec").__module__ == "recbole.model.sequential_recommender.sasrec"
    assert get_trainer(ModelType.SEQUENTIAL, "SASRec") is Trainer
