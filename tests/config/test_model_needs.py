"""Columns and protocol of models that read features, labels or a knowledge graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import best_file, build, protocol, write_inter, write_table

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError

INTER = ["user_id", "item_id", "timestamp"]
LABELLED = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None}
LABELLED["mode"] = {"valid": "labeled", "test": "labeled"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose data/d has features of users and items and a knowledge graph, and data/l has
    ratings and labels as well."""
    data = tmp_path / "data"
    rows = [(f"u{u}", f"i{(u + t) % 9}", float(t)) for u in range(20) for t in range(6)]
    write_inter(data, "d", rows)
    header = "user_id:token item_id:token rating:float timestamp:float label:float"
    (data / "l").mkdir()
    write_table(
        data, "l", "inter", header, [f"{u} {i} {1 + t % 5} {t} {t % 2}" for u, i, t in rows]
    )
    for name in "dl":
        write_table(data, name, "user", "user_id:token age:token", [f"u{u} {u}" for u in range(20)])
        header = "item_id:token title:token_seq brand:token price:float class:token_seq v:float_seq"
        items = [f"i{i} t{i} b{i % 3} {i}.5 c{i % 2} 1" for i in range(9)]
        write_table(data, name, "item", header, items)
        write_table(data, name, "kg", "head_id:token relation_id:token tail_id:token", ["e r f"])
        write_table(data, name, "link", "item_id:token entity_id:token", ["i1 e"])
    return tmp_path


def configured(folder: Path, model: str, dataset: str = "d", **changes: Any) -> Config:
    chosen = protocol(folder, **changes)
    if "load_col" not in changes:
        del chosen["load_col"]
    return Config(model, dataset, config_dict=chosen)


@pytest.mark.parametrize("model", ["FM", "xDeepFM", "DSSM"])
def test_labels_are_learned_where_there_are_any(folder: Path, model: str) -> None:
    config = configured(folder, model, "l")
    assert config["eval_args"] == LABELLED
    assert (config["metrics"], config["valid_metric"]) == (["AUC", "LogLoss"], "AUC")
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["load_col"]["inter"] == [*INTER, "label"]
    assert config["load_col"]["user"] == ["user_id", "age"]
    assert config["load_col"]["item"] == ["item_id", "brand", "price", "class"]
    assert config["numerical_features"] == ["price"]
    assert f"{model} learns from the labels of the data (label)" in config.protocol


def test_a_threshold_makes_labels(folder: Path) -> None:
    config = configured(folder, "FM", "l", threshold={"rating": 3})
    assert config["load_col"]["inter"] == [*INTER, "rating"] and config["eval_args"] == LABELLED


def test_without_labels_negatives_are_sampled_and_all_items_ranked(folder: Path) -> None:
    plain, config = configured(folder, "BPR"), configured(folder, "FM")
    for key in ("eval_args", "metrics", "valid_metric", "repeatable", "train_neg_sample_args"):
        assert config[key] == plain[key], key
    assert (
        config["load_col"]["inter"] == INTER and config["train_neg_sample_args"]["sample_num"] == 1
    )
    assert "one sampled negative each" in config.protocol and "no labels" in config.protocol
    assert plain.protocol == "" and plain["load_col"] == {"inter": INTER}


@pytest.mark.parametrize("changes", [{"valid_metric": "AUC"}, {"metrics": ["AUC"]}])
def test_without_labels_values_are_measured_on_sampled_items(folder: Path, changes: dict) -> None:
    config = configured(folder, "FM", **changes)
    assert config["eval_args"]["mode"] == {"valid": "uni100", "test": "uni100"}
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["valid_metric"] == "AUC" and "100 sampled items" in config.protocol
    assert config["train_neg_sample_args"]["distribution"] == "uniform"


@pytest.mark.parametrize(
    "changes", [{"valid_metric": "NDCG@5"}, {"metrics": ["MRR", "NDCG"]}, {"eval_args": "uni50"}]
)
def test_who_asks_for_ranked_lists_gets_them(folder: Path, changes: dict) -> None:
    if "eval_args" in changes:
        changes = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni50"}}
    config = configured(folder, "FM", "l", **changes)
    (key,) = changes
    assert f"because {key} (" in config.protocol
    assert config["train_neg_sample_args"]["distribution"] == "uniform"
    assert "label" not in config["load_col"]["inter"] and "LS" in config["eval_args"]["split"]
    with pytest.raises(UserError, match=rf"threshold .* makes labels.*{key} .* leave one of them"):
        configured(folder, "FM", "l", threshold={"rating": 3}, **changes)


def test_decision_trees_need_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.model.context_aware_recommender.fm import FM
    from recbole.utils import ModelType

    monkeypatch.setattr(FM, "type", ModelType.DECISIONTREE)
    with pytest.raises(UserError, match=r"learns from labels.* no column 'label' .*threshold"):
        configured(folder, "FM")
    config = configured(folder, "FM", "l")
    assert config["metrics"] == ["AUC", "LogLoss"] and config["numerical_features"] == []


def test_ml_100k_has_recboles_threshold_and_features() -> None:
    config = Config("DeepFM", "ml-100k")
    assert config["threshold"] == {"rating": 4}
    assert config["load_col"]["user"] == ["user_id", "age", "gender", "occupation"]
    assert config["load_col"]["item"] == ["item_id", "release_year", "class"]
    for model in ("SASRecF", "FDSA", "GRU4RecF", "S3Rec"):
        assert "class" in Config(model, "ml-100k")["load_col"]["item"], model
    assert Config("CKE", "ml-100k")["load_col"]["link"] == ["item_id", "entity_id"]


def test_the_auc_of_a_model_that_learns_a_feature(folder: Path) -> None:
    """Items of class c0 are always liked, the others never."""
    rows = [
        f"u{u} i{i} 1 {t} {int(i % 2 == 0)}"
        for u in range(20)
        for t, i in enumerate(range(u % 3, 9))
    ]
    header = "user_id:token item_id:token rating:float timestamp:float label:float"
    write_table(folder / "data", "l", "inter", header, rows)
    chosen = protocol(folder, epochs=30, learning_rate=0.05)
    del chosen["load_col"]
    assert run("FM", "l", config_dict=chosen)["test_result"]["auc"] > 0.99


def test_a_knowledge_graph_is_loaded(folder: Path) -> None:
    graph = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    assert configured(folder, "CKE")["load_col"] == {"inter": INTER, **graph}
    vectors = configured(folder, "GRU4RecKG", additional_feat_suffix=["ent"])
    assert vectors["load_col"] == {"inter": INTER, "ent": "*", **graph}


def test_features_that_settings_name_are_loaded(folder: Path) -> None:
    assert configured(folder, "SASRecF")["load_col"]["item"] == ["item_id", "class"]
    config = configured(folder, "FDSA", selected_features=["brand", "price"])
    assert config["load_col"]["item"] == ["item_id", "brand", "price"]
    assert config["numerical_features"] == ["price"]
    assert configured(folder, "S3Rec")["load_col"]["item"] == ["item_id", "class"]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("FDSA", {"selected_features": ["colour"]}, r"'colour' is not in .* There are .*brand"),
        ("GRU4RecF", {"selected_features": ["v"]}, r"'v' is float_seq, and GRU4RecF reads"),
        ("S3Rec", {"item_attribute": "price"}, r"'price' is float, and S3Rec reads .*token_seq"),
        (
            "SASRecF",
            {"load_col": {"inter": INTER, "item": ["item_id", "brand"]}},
            r"leaves out class of the .item file, which SASRecF reads: --load_col=.*'class'\]",
        ),
        ("CKE", {"load_col": {"inter": INTER}}, r"leaves out head_id of the .kg file"),
    ],
)
def test_columns_that_cannot_be_read(folder: Path, model: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configured(folder, model, **changes)


def test_all_columns_may_be_asked_for(folder: Path) -> None:
    every = {"inter": "*", "item": "*", "kg": "*", "link": "*"}
    assert configured(folder, "CKE", load_col=every)["load_col"] == every
    config = configured(folder, "FM", unload_col={"item": ["brand"]})
    assert config["load_col"]["item"] == "*" and config["numerical_features"] == ["price"]
    assert configured(folder, "FM", unload_col={"item": ["price"]})["numerical_features"] == []


@pytest.mark.parametrize("load", [{"inter": INTER, "item": ["item_id", "price"]}, "None"])
def test_loaded_numbers_are_features(folder: Path, load: Any) -> None:
    config = configured(folder, "FM", load_col=load)
    assert config["numerical_features"] == config["normalize_field"] == ["price"]
    chosen = configured(folder, "FM", load_col=load, numerical_features=[])
    assert chosen["numerical_features"] == [] and chosen["normalize_field"] is None
    scaled = configured(folder, "FM", load_col=load, normalize_all=True)
    assert scaled["normalize_field"] is None
    model = build("FM", "d", config.external_config_dict).model
    assert model.float_field_names == ["price"]


@pytest.mark.parametrize(("dataset", "metric"), [("l", "auc"), ("d", "ndcg@9")])
def test_a_saved_model_is_evaluated_in_its_own_protocol(
    folder: Path, dataset: str, metric: str
) -> None:
    chosen = protocol(folder)
    del chosen["load_col"]
    first = run("FM", dataset, config_dict=chosen)["test_result"]
    saved = str(best_file(folder / "saved", "FM"))
    assert run("FM", dataset, config_dict={**chosen, "model_file": saved})["test_result"] == first
    assert metric in first
