"""What names a run: all that changes the training, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import recbole.config

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.run_id import last_of, path_of, settings_of


def name(model: str = "MSCGRec", **changes: Any) -> str:
    return path_of(Config(model, "some-data", config_dict=changes)).name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eval_batch_size", 7),
        ("text_batch_size", 3),
        ("image_cache_gb", 1.0),
        ("image_workers", 0),
        ("topk", [10]),
        ("metrics", ["NDCG"]),
        ("show_progress", False),
        ("cache_dir", "elsewhere"),
        ("rescore_model", "x.pth"),
        ("eval_drop_modality", "text"),
        ("result_file", "r.json"),
        ("data_path", "d"),
        ("metric_decimal_place", 3),
    ],
)
def test_what_leaves_the_training_alone_does_not_rename_a_run(key: str, value: Any) -> None:
    assert name(**{key: value}) == name()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 3),
        ("seed", 1),
        ("hidden_size", 64),
        ("exclude_seen", "all"),
        ("beam_size", 30),
        ("valid_metric", "NDCG@20"),
        ("image_size", 96),
        ("text_columns", ["title"]),
        ("MAX_ITEM_LIST_LENGTH", 20),
        ("user_inter_num_interval", "[5,inf)"),
        ("initial_model", "x.pth"),
        ("matmul_precision", "medium"),
        ("sparse_settings", False),
    ],
)
def test_what_changes_the_training_does(key: str, value: Any) -> None:
    assert name(**{key: value}) != name()


def test_settings_of_a_stock_model_name_its_run_too() -> None:
    assert name("SASRec", n_layers=3) != name("SASRec") == name("SASRec", eval_batch_size=3)


def test_earlier_configurations_of_a_process_change_nothing() -> None:
    """RecBole's list of data settings used to grow with every Config of ml-100k."""
    before = name()
    recbole.config.Config("BPR", "ml-100k")
    Config("MSCGRec", "ml-100k")
    assert name() == before


def test_where_files_are() -> None:
    config = Config("MSCGRec", "some-data", config_dict={"checkpoint_dir": "there"})
    assert path_of(config).parent == Path("there")
    assert path_of(config).name.startswith("MSCGRec-some-data-")
    assert last_of(config).name == path_of(config).stem + ".last.pth"


def test_settings_of_a_result_hold_defaults_but_no_path_of_a_machine() -> None:
    settings = settings_of(Config("MSCGRec", "some-data", config_dict={"data_path": "/here"}))
    assert settings["codebook_size"] == 64 and settings["topk"] == [1, 5, 10, 20]
    assert not {"data_path", "checkpoint_dir", "cache_dir", "result_file"} & set(settings)
