"""RecBole's evaluation on today's numpy and torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
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
