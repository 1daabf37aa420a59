"""The measurement of cold items: what is taken out, what is asked, how it is counted."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tiny import item_texts, rule_sequences, write_dataset


@pytest.fixture
def cold_items(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("cold_items")


def test_the_training_never_sees_the_items_taken_out(
    cold_items: ModuleType, tmp_path: Path
) -> None:
    write_dataset(tmp_path, "rule", rule_sequences(), item_texts())
    cold = set(cold_items.split("rule", tmp_path, tmp_path / "out", 2020, 0.1))
    folder = tmp_path / "out" / "rule-cold-2020"
    _, rows = cold_items.rows_of(folder / "rule-cold-2020.inter")
    _, items = cold_items.rows_of(folder / "rule-cold-2020.item")
    _, left_out = cold_items.rows_of(folder / "cold.item")
    assert len(cold) == 3 and {row.split("\t")[0] for row in left_out} == cold
    assert not cold & {row.split("\t")[1] for row in rows}
    assert not cold & {row.split("\t")[0] for row in items} and len(items) == 27
    _, all_rows = cold_items.rows_of(tmp_path / "rule" / "rule.inter")
    assert [r for r in all_rows if r.split("\t")[1] not in cold] == rows


def test_the_last_items_of_users_are_asked_for(cold_items: ModuleType, tmp_path: Path) -> None:
    write_dataset(tmp_path, "rule", {"a": ["x", "y", "z", "c"], "b": ["c", "x"], "d": ["y"]})
    options = argparse.Namespace(dataset="rule", data_path=tmp_path, seed=1, users=0)
    valid, test = cold_items.cases_of(options, {"c"})
    assert valid == [] and test == [cold_items.Case(["x", "y", "z"], "c", False)]
    options.users = 10
    valid, test = cold_items.cases_of(options, {"c"})
    assert valid == [cold_items.Case(["x", "y"], "z", True)]
    assert [case.target for case in test] == ["c", "x"]


def test_recall_and_ndcg_by_hand(cold_items: ModuleType) -> None:
    cases = [
        cold_items.Case(["h"], target, drawn) for target, drawn in (("a", 1), ("b", 1), ("c", 0))
    ]
    lists = [["a", "x"], ["x", "b"], ["x", "y"]]
    found = cold_items.scores(lists, cases)
    assert found == {"targets": 2, "recall@10": 1.0, "ndcg@10": (1 + 1 / math.log2(3)) / 2}
    found = cold_items.scores(lists, cases, {"b", "c"})
    assert found["targets"] == 2 and found["recall@10"] == 0.5
    assert found["ndcg@10"] == pytest.approx(0.5 / math.log2(3))


def test_the_table_is_the_mean_and_deviation_over_seeds(
    cold_items: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "figures.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, cold_items.COLUMNS)
        writer.writeheader()
        for seed, value in ((1, 0.1), (2, 0.3)):
            row = {"dataset": "d", "seed": seed, "method": "m", "protocol": "p"}
            group = {"group": "all targets, all items", "targets": 5}
            writer.writerow({**row, **group, "recall@10": value, "ndcg@10": value / 2})
    (line,) = cold_items.table([file])
    assert line["seeds"] == "2"
    assert line["all targets, all items: Recall@10"] == "0.2000 ± 0.1414"
    assert line["all targets, all items: NDCG@10"] == "0.1000 ± 0.0707"
