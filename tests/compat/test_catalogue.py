"""Lists that are longer than the catalogue."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import best_file, protocol, write_dataset

from recbole_mscgrec.compat.catalogue import cut_lists
from recbole_mscgrec.runner.quick_start import run

SEQUENCES = {f"u{u}": [f"i{(u + t) % 4}" for t in range(4)] for u in range(8)}


def cut(n_items: int, **settings: Any) -> dict[str, Any]:
    settings = {"topk": [1, 5, 10, 20], "valid_metric": "NDCG@10", **settings}
    config = SimpleNamespace(final_config_dict=settings)
    cut_lists(config, n_items, 50)
    return config.final_config_dict


@pytest.mark.parametrize(
    ("n_items", "given", "expected"),
    [
        (20, {}, {"topk": [1, 5, 10, 20], "valid_metric": "NDCG@10"}),
        (7, {}, {"topk": [1, 5, 7], "valid_metric": "NDCG@7"}),
        (7, {"valid_metric": "AUC"}, {"topk": [1, 5, 7], "valid_metric": "AUC"}),
        (7, {"metrics_k": 100}, {"metrics_k": 7}),
        (60, {"num_clusters": 1000}, {"num_clusters": 50}),
        (7, {"num_clusters": 1000}, {"num_clusters": 7}),
        (60, {"reranker_CAN_NUM": 100}, {"reranker_CAN_NUM": "60"}),
        (60, {"reranker_CAN_NUM": (500, 100, 20)}, {"reranker_CAN_NUM": "60,60,20"}),
        (90, {"reranker_CAN_NUM": "80,20"}, {"reranker_CAN_NUM": "80,20"}),
    ],
)
def test_lists_are_cut_to_the_items(n_items: int, given: dict, expected: dict) -> None:
    result = cut(n_items, **given)
    assert {key: result[key] for key in expected} == expected


def test_one_line_tells_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cut(20)
        assert not caplog.records
        cut(4)
    (told,) = [r.getMessage() for r in caplog.records]
    assert told == (
        "With 4 items and 50 users, these are cut: topk [1, 5, 10, 20] to [1, 4], valid_metric "
        "NDCG@10 to NDCG@4."
    )


@pytest.mark.parametrize("model", ["Pop", "SASRec"])
def test_a_list_of_the_whole_catalogue_holds_every_target(tmp_path: Path, model: str) -> None:
    write_dataset(tmp_path / "data", "four", SEQUENCES)
    result = run(model, "four", config_dict=protocol(tmp_path))["test_result"]
    assert result["recall@4"] == 1.0 and "recall@5" not in result


def test_a_saved_model_is_asked_for_the_same_list_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "four", SEQUENCES)
    first = run("SASRec", "four", config_dict=protocol(tmp_path))
    assert first["settings"]["topk"] == [1, 5, 10]
    saved = protocol(tmp_path, model_file=str(best_file(tmp_path / "saved", "SASRec")))
    assert run("SASRec", "four", config_dict=saved)["test_result"] == first["test_result"]
