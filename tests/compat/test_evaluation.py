"""RecBole's evaluation on today's numpy and torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector
from tiny import protocol

from recbole_mscgrec.config.config import Config


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


def test_lists_of_all_batches_are_collected_in_linear_time() -> None:
    from recbole.evaluator.collector import DataStruct

    batches = [torch.full((1 + n % 3, 2), n) for n in range(200)]
    struct, places = DataStruct(), set()
    for batch in batches:
        struct.update_tensor("rec.items", batch)
        places.add(struct.get("rec.items").data_ptr())
        batch.zero_()  # the struct holds a copy
    assert struct.get("rec.items")[:, 0].tolist() == [
        n for n in range(200) for _ in range(1 + n % 3)
    ]
    assert len(places) < 12  # moved when the room is doubled, not for every batch


def test_fixes_applied_again_change_nothing() -> None:
    from recbole.evaluator.collector import DataStruct
    from recbole.evaluator.metrics import ItemCoverage, TailPercentage

    from recbole_mscgrec.compat import evaluation

    kinds = DataStruct, Collector, ItemCoverage, TailPercentage
    before = [dict(vars(kind)) for kind in kinds]
    evaluation.apply()
    assert [dict(vars(kind)) for kind in kinds] == before


def test_collected_rows_of_another_kind_are_joined_as_recbole_does() -> None:
    from recbole.evaluator.collector import DataStruct

    struct = DataStruct()
    for values in ([1, 2], [7], [0.5]):
        struct.update_tensor("x", torch.tensor(values))
    assert struct.get("x").tolist() == [1, 2, 7, 0.5]
    del struct["x"]
    struct.update_tensor("x", torch.tensor([8]))
    assert struct.get("x").tolist() == [8]


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


def test_an_empty_place_of_a_list_is_no_item() -> None:
    """Known answers: [1, 2] and [1, padding] hold items 1, 1 and 2, of which 2 is the tail."""
    from recbole.evaluator import metrics

    lists, counts = np.array([[1, 2], [1, 0]]), {1: 4, 2: 2, 3: 9}
    measured = {
        kind: object.__new__(getattr(metrics, kind))
        for kind in "ItemCoverage GiniIndex ShannonEntropy AveragePopularity TailPercentage".split()
    }
    measured["TailPercentage"].tail = 3
    assert measured["ItemCoverage"].get_coverage(lists, 4) == 2 / 4
    full = np.array([[1, 2, 1]])
    assert measured["GiniIndex"].get_gini(lists, 4) == measured["GiniIndex"].get_gini(full, 4)
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert measured["ShannonEntropy"].get_entropy(lists) * 2 == pytest.approx(entropy)
    for kind, name, expected in (
        ("AveragePopularity", "get_pop", [[4, 3], [4, 4]]),  # means over the first 1 and 2 places
        ("TailPercentage", "get_tail", [[0, 0.5], [0, 0]]),
    ):
        values = getattr(measured[kind], name)(lists, counts)
        assert measured[kind].metric_info(values).tolist() == expected
    nothing = np.zeros((2, 2), dtype=int)
    assert measured["ItemCoverage"].get_coverage(nothing, 4) == 0
    assert measured["GiniIndex"].get_gini(nothing, 4) == 0


def test_excluded_items_fill_no_list(rule_folder: Path) -> None:
    """Three items, two of them excluded: the list is one item long, whatever the model."""
    measured = {"metrics": ["ItemCoverage", "Recall"], "topk": [2], "valid_metric": "Recall@2"}
    settings = protocol(rule_folder, **measured)
    collector = Collector(Config("SASRec", "rule", config_dict=settings))
    users = torch.tensor([0, 1])
    for scores in ([[0.0, 3, 1, 2], [0, 1, 2, 3]], [[0.0, 1, 2, 3], [0, 3, 2, 1]]):
        batch = torch.tensor(scores)
        batch[:, [0, 1, 2]] = -torch.inf
        collector.eval_batch_collect(batch, None, users, torch.tensor([3, 3]))
    struct = collector.get_data_struct()
    assert struct.get("rec.items").tolist() == [[3, 0]] * 4
    assert struct.get("rec.topk").tolist() == [[1, 0, 1]] * 4
