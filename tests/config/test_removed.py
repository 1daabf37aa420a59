"""Settings of earlier versions are refused by name, and saved runs that had them are read."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.removed import REMOVED, of_a_saved_run

NOW = {"conv_kernel_size": 4, "transition_weight": 0.5, "n_encoder_layers": 2}


@pytest.mark.parametrize("key", REMOVED)
def test_a_removed_setting_is_refused_with_what_to_use(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is no longer a setting: ."):
        Config("MSCGRec", "x", config_dict={key: 1})


@pytest.mark.parametrize(
    ("saved", "today"),
    [
        ({"epochs": 3, "exclude_seen": "all"}, {"epochs": 3, "exclude_seen": "all"}),
        (
            {"encoder": "attention", "n_encoder_layers": 3},
            {
                "conv_kernel_size": 0,
                "transition_weight": 0.0,
                "learned_items": 0,
                "n_encoder_layers": 3,
            },
        ),
        (
            {**NOW, "learned_items": 7},
            {**NOW, "learned_items": 7},
        ),
        ({**NOW, "learned_vectors": True}, {**NOW, "learned_items": 30}),
        ({**NOW, "learned_vectors": False}, {**NOW, "learned_items": 0}),
        ({"learned_vectors": None}, {}),
        ({"exclude_seen": True}, {"exclude_seen": "all"}),
        ({"exclude_seen": True, "seen_items": "history"}, {"exclude_seen": "history"}),
        ({"exclude_seen": False, "seen_items": "all"}, {"exclude_seen": "none"}),
        ({"start_token": "learned", "cross_bias": False}, {"decoder": "t5"}),
        ({"start_token": "history"}, {"decoder": "item_aware"}),
        ({"quantizer": "kmeans", "random_windows": False, "soft_penalty": 5.0}, {}),
        ({"image_spread": 0.5, "image_quantize": True}, {}),  # its codes are in the file
        ({"collaborative_source": "SASRec", "collaborative_similarity": "dot"}, {}),
        ({"collaborative_source": "GRU4Rec", "collaborative_similarity": "cosine"}, {}),  # likewise
        ({"collaborative_source": "NARM", "collaborative_settings": {"n_layers": 2}}, {}),
    ],
)
def test_settings_of_a_saved_run_under_todays_names(saved: dict, today: dict) -> None:
    weights = {"network.history.item_embedding.weight": torch.zeros(31, 2)}
    assert of_a_saved_run(saved, "m.pth", weights) == today


@pytest.mark.parametrize(
    "saved",
    [{"start_token": "learned"}, {"cross_bias": False}, {"item_bias": False}, {"encoder": "gru"}],
)
def test_what_this_version_cannot_give_is_refused(saved: dict) -> None:
    with pytest.raises(
        ValueError, match="m.pth was trained with .*use the version of this package"
    ):
        of_a_saved_run(saved, "m.pth")


def test_the_setting_for_some_items_in_place_of_all_is_named() -> None:
    with pytest.raises(ValueError, match="learned_vectors is no longer a setting: use learned_it"):
        Config("MSCGRec", "x", config_dict={"learned_vectors": True})
    assert of_a_saved_run({"learned_vectors": True}, "m.pth")["learned_items"] > 10**9  # cut later


def test_every_name_of_today_is_a_setting() -> None:
    Config("MSCGRec", "x", config_dict={"exclude_seen": "history", "decoder": "t5"})
