"""Registers this project's classes under the names by which RecBole looks classes up."""

from __future__ import annotations

import sys

import recbole.data.dataset
import recbole.model.sequential_recommender
import recbole.trainer

from recbole_mscgrec import checkpoint, mscgrec, tiled_models, tokenizer_model
from recbole_mscgrec.dataset import TiledDataset
from recbole_mscgrec.trainer import MSCGRecTrainer

# RecBole finds the model X in recbole.model.sequential_recommender.<x>, its dataset as XDataset in
# recbole.data.dataset and its trainer as XTrainer in recbole.trainer.
MODULES = {
    "MSCGRec": mscgrec,
    "MSCGRecTokenizer": tokenizer_model,
    "TiledSASRec": tiled_models,
    "TiledGRU4Rec": tiled_models,
}
DATASETS = dict.fromkeys(MODULES, TiledDataset)
TRAINERS = {
    "MSCGRec": MSCGRecTrainer,
    "MSCGRecTokenizer": tokenizer_model.MSCGRecTokenizerTrainer,
}


def register() -> None:
    """Make RecBole's get_model, create_dataset and get_trainer find this project's classes."""
    checkpoint.install()
    package = recbole.model.sequential_recommender
    for name, module in MODULES.items():
        sys.modules[f"{package.__name__}.{name.lower()}"] = module
        setattr(package, name.lower(), module)
    for name, dataset in DATASETS.items():
        setattr(recbole.data.dataset, f"{name}Dataset", dataset)
    for name, trainer in TRAINERS.items():
        setattr(recbole.trainer, f"{name}Trainer", trainer)
