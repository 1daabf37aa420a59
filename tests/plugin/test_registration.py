"""RecBole's own look-ups find this project's classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recbole.data import create_dataset
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_model, get_trainer
from tiny import protocol, settings

import recbole_mscgrec
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.tiled_rows import TiledDataset
from recbole_mscgrec.features.tiled_models import TiledSASRec
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.plugin.tokenizer_model import MSCGRecTokenizer, MSCGRecTokenizerTrainer
from recbole_mscgrec.plugin.trainer import MSCGRecTrainer


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


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_alone_loads_neither_recbole_nor_torch() -> None:
    heavy = "{'recbole', 'torch', 'pandas', 'numpy', 'timm', 'transformers'}"
    code = f"import sys, recbole_mscgrec; print({heavy} & set(sys.modules))"
    assert in_a_new_process(code) == "set()"


IMPORTS = [
    "import recbole_mscgrec; import recbole",
    "import recbole; import recbole_mscgrec",
    "from recbole_mscgrec import MSCGRec",
    "import recbole_mscgrec.data.tiled_rows",
    "import recbole_mscgrec.plugin.trainer",
    "import recbole_mscgrec.plugin.checkpoints; import recbole",
    "import recbole_mscgrec.features.collaborative",
]
LOOK_UP = """
import recbole.data.dataset
from recbole.utils import get_model, get_trainer, ModelType as t
print(get_model('MSCGRec').__name__, get_trainer(t.SEQUENTIAL, 'MSCGRec').__name__,
      recbole.data.dataset.MSCGRecDataset.__name__, hasattr(recbole.data.dataset, 'XDataset'))
"""
# Each of the imports in a process of its own, forked from one that has what is slow to import.
IN_PROCESSES = """
import os, sys, traceback
import pandas, scipy.sparse, sklearn, torch.utils.tensorboard
for code in {codes!r}:
    child = os.fork()
    if child == 0:
        try:
            exec(code)
        except BaseException:
            print(traceback.format_exc().replace(chr(10), "|"))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    codes = [f"{first}{LOOK_UP}" for first in IMPORTS]
    lines = in_a_new_process(IN_PROCESSES.format(codes=codes)).splitlines()
    return dict(zip(IMPORTS, lines, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("first", IMPORTS)
def test_whatever_is_imported_first_the_models_are_found(
    first: str, answers: dict[str, str]
) -> None:
    assert answers[first] == "MSCGRec MSCGRecTrainer TiledDataset False"


def test_missing_recbole_says_what_to_install() -> None:
    code = (
        "import importlib.util, recbole_mscgrec\n"
        "importlib.util.find_spec = lambda name: None\n"
        "try: import recbole\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install" in in_a_new_process(code)


def test_public_names() -> None:
    for name in recbole_mscgrec.__all__:
        assert getattr(recbole_mscgrec, name) is not None
    assert set(recbole_mscgrec.__all__) <= set(dir(recbole_mscgrec))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        recbole_mscgrec.nope  # noqa: B018
