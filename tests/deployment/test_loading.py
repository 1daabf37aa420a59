"""Users, categories and images of the data set of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from exports import tiny_export

from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.serving.recommender import Recommender


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    quiet = {"show_progress": False, "state": "WARNING"}
    return TrainedModel.from_checkpoint(str(trained), quiet)


def test_histories_are_whole_and_in_order(model: TrainedModel) -> None:
    # User u walks from item 7 u to item + 1, for 6 + u modulo 9 steps.
    assert model.data.history("u1") == [f"i{i}" for i in range(7, 14)]
    histories = dict(model.data.histories())
    assert len(histories) == 60 and histories["u0"] == [f"i{i}" for i in range(6)]
    with pytest.raises(ValueError, match="--user names the unknown user 'u60'"):
        model.data.history("u60")


def test_items_of_a_category(model: TrainedModel) -> None:
    assert sorted(model.data.items_of("Even")) == sorted(f"i{i}" for i in range(0, 30, 2))
    assert len(model.data.items_of("all", "genre")) == 30
    with pytest.raises(ValueError, match="no column of categories country; --category_column"):
        model.data.items_of("even", "country")


def test_only_items_with_an_image_have_a_poster(model: TrainedModel) -> None:
    assert sorted(model.data.posters(["i9", "i1", "i4", "i1"])) == ["i1", "i4"]


def test_a_model_without_data_has_titles_alone() -> None:
    model = TrainedModel(Recommender(tiny_export()))
    assert model.title("a3") == "Title 3" and model.title("other") == ""
    with pytest.raises(ValueError, match="An export folder holds no interactions"):
        _ = model.data
