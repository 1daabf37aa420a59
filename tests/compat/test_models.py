"""RecBole's models on today's packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build, protocol

from recbole_mscgrec.compat import models


def test_numpy_names_are_there() -> None:
    assert np.float_ is np.float64 and np.complex_ is np.complex128 and np.unicode_ is np.str_


def test_anomaly_detection_stays_off() -> None:
    assert not torch.is_anomaly_enabled()


def test_anomaly_detection_that_recbole_turned_on_before_goes_off() -> None:
    """As when RecBole's models are imported before this package."""
    assert "recbole.model.sequential_recommender.sine" in sys.modules
    torch.autograd.set_detect_anomaly(True)
    models.apply()
    assert not torch.is_anomaly_enabled()


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
