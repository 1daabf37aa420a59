"""What RecBole needs on today's packages."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from recbole.evaluator import Collector
from tiny import build, protocol, rule_sequences, write_dataset

from recbole_mscgrec import compat
from recbole_mscgrec.config.config import Config


def test_numpy_names_are_there() -> None:
    assert np.float_ is np.float64 and np.complex_ is np.complex128 and np.unicode_ is np.str_


def test_applying_it_twice_changes_nothing_more() -> None:
    from recbole.data.dataset import dataset as module

    before = (module.pd, module.Dataset._fill_nan, Collector.get_data_struct)
    compat.apply()
    assert before == (module.pd, module.Dataset._fill_nan, Collector.get_data_struct)


def test_anomaly_detection_stays_off() -> None:
    assert not torch.is_anomaly_enabled()


def test_missing_values_of_items_are_filled(tmp_path: Path) -> None:
    """A missing float is the mean, a missing token the padding, a missing sequence empty."""
    write_dataset(tmp_path / "data", "gaps", rule_sequences(20, 4))
    (tmp_path / "data" / "gaps" / "gaps.item").write_text(
        "item_id:token\tprice:float\tbrand:token\ttags:token_seq\n"
        "i0\t1.0\tb1\tx y\ni1\t\tb2\t\ni2\t3.0\t\tx\ni3\t2.0\tb1\ty y x\n"
    )
    load = {"inter": ["user_id", "item_id", "timestamp"]}
    load["item"] = ["item_id", "price", "brand", "tags"]
    settings = protocol(tmp_path, load_col=load, normalize_all=False)
    data = create_dataset(Config("SASRec", "gaps", config_dict=settings))
    items = {data.id2token("item_id", i): i for i in range(1, 5)}
    features = data.item_feat
    price = {name: float(features["price"][i]) for name, i in items.items()}
    assert price == {"i0": 1.0, "i1": 2.0, "i2": 3.0, "i3": 2.0}
    assert int(features["brand"][items["i2"]]) == 0 != int(features["brand"][items["i0"]])
    lengths = {name: int((features["tags"][i] != 0).sum()) for name, i in items.items()}
    assert lengths == {"i0": 2, "i1": 0, "i2": 1, "i3": 3}


def test_collected_counts_survive(rule_folder: Path) -> None:
    metrics = {"metrics": ["AveragePopularity", "ItemCoverage"], "valid_metric": "ItemCoverage@5"}
    settings = protocol(rule_folder, **metrics)
    collector = Collector(Config("SASRec", "rule", config_dict=settings))
    collector.data_struct.set("data.count_items", Counter({3: 5}))
    collector.data_struct.set("data.num_items", 31)
    collector.data_struct.update_tensor("rec.items", torch.tensor([[1, 2]]))
    for _ in range(2):  # a second evaluation finds them again
        struct = collector.get_data_struct()
        assert struct.get("data.count_items") == {3: 5} and struct.get("data.num_items") == 31
    assert "rec.items" not in collector.data_struct


def test_tail_items_are_found_as_recbole_finds_them() -> None:
    from recbole.evaluator.metrics import TailPercentage

    lists = np.random.default_rng(0).integers(1, 50, size=(20, 10))
    counts = {item: item % 7 for item in range(1, 45)}  # the last five were never counted
    for ratio in (0.2, 3):
        metric = object.__new__(TailPercentage)
        metric.tail = ratio
        tail = sorted(counts, key=lambda item: (counts[item], item))[: int(44 * 0.2)]
        if ratio == 3:
            tail = [item for item, count in counts.items() if count <= 3]
        expected = [[int(item in tail) for item in row] for row in lists.tolist()]
        assert metric.get_tail(lists, counts).tolist() == expected


def test_pop_ranks_by_the_number_of_interactions(rule_folder: Path) -> None:
    """Whatever the batches, and without counting sampled negatives."""
    built = build("Pop", "rule", protocol(rule_folder, train_batch_size=1000))
    for batch in built.train:
        built.model.calculate_loss(batch)
    expected = torch.zeros(built.model.n_items, dtype=torch.long)
    for item, count in built.train.dataset.item_counter.items():
        expected[item] = count
    assert torch.equal(built.model.item_cnt.flatten(), expected)
    scores = built.model.full_sort_predict(built.test.dataset.inter_feat[:1])
    torch.testing.assert_close(scores, expected.double() / expected.max())


@pytest.mark.skipif(
    importlib.util.find_spec("kmeans_pytorch") is not None, reason="kmeans_pytorch is installed"
)
def test_general_models_import_without_kmeans() -> None:
    assert importlib.util.find_spec("recbole.model.general_recommender.bpr")
    assert "kmeans_pytorch" not in sys.modules
