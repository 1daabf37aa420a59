"""Which data are sparse, and what is set there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import best_file, build, item_texts, rule_sequences, settings, write_dataset

from recbole_mscgrec.config import presets, run_id
from recbole_mscgrec.config.config import Config, properties_folder
from recbole_mscgrec.config.presets import SETTINGS, is_sparse
from recbole_mscgrec.runner.quick_start import run

# What a tiny model does not choose for itself.
FREE = {key: value for key, value in SETTINGS.items() if key not in settings(Path())}


@pytest.fixture
def sparse_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 items shown 9.0 times in the mean; six of them, `dense`, 45 times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "AT_LEAST", 5)
    for name, n_items in (("walk", 30), ("dense", 6)):
        write_dataset(tmp_path / "data", name, rule_sequences(40, n_items), item_texts(n_items))
    return tmp_path


def fitted(folder: Path, dataset: str = "walk", **changes: Any) -> tuple[Any, Any]:
    """The configuration as chosen, and as the data have it."""
    chosen = settings(folder, **changes)
    built = build("MSCGRec", dataset, chosen)
    return Config("MSCGRec", dataset, config_dict=chosen), built.config


@pytest.mark.parametrize(
    ("times_shown", "n_items", "expected"),
    [
        (7.7, 4344, True),
        (71.5, 1349, False),
        (29.9, 1000, True),
        (30, 1000, False),
        (5, 999, False),
    ],
)
def test_sparse_are_many_items_shown_a_few_times(
    times_shown: float, n_items: int, expected: bool
) -> None:
    assert is_sparse(times_shown, n_items) is expected


def test_sparse_data_get_their_settings_but_for_the_chosen(
    sparse_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        chosen, config = fitted(sparse_folder, neighbour_prob=0.1)
    assert {k: config[k] for k in FREE if k != "neighbour_prob"} == {
        "history_vectors": True,
        "target_modality": "fused",
    }
    assert (config["neighbour_prob"], config["codebook_size"]) == (0.1, 6)
    assert "an item occurs 9.0 times on average in training): history_vectors True" in caplog.text
    # A cell of a table looks for its unfinished training before there is a model.
    assert chosen["target_modality"] == "collaborative"
    again = Config("MSCGRec", "walk", config_dict=settings(sparse_folder, neighbour_prob=0.1))
    assert run_id.last_of(again) == run_id.last_of(chosen) == run_id.last_of(config)


def test_other_data_and_other_wishes_keep_the_plain_settings(sparse_folder: Path) -> None:
    for dataset, changes in (("dense", {}), ("walk", {"sparse_settings": False})):
        chosen, config = fitted(sparse_folder, dataset, **changes)
        assert (
            config.preset == {"transition_weight": 0.7}  # learned_items is set
            and config.final_config_dict.items() >= {key: chosen[key] for key in SETTINGS}.items()
        )


@pytest.mark.parametrize(
    ("changes", "most", "expected"),
    [
        ({}, 20_000, 30),
        ({}, 3, 3),
        ({"learned_items": 5}, 3, 5),
        ({"learned_items": 0}, 20_000, 0),
        ({"learned_items": 50_000}, 20_000, 30),
        ({"history_tokens": "code"}, 20_000, 0),
    ],
)
def test_so_many_items_get_a_learned_vector_unless_it_is_set_and_at_most_all(
    sparse_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, most: int, expected: int
) -> None:
    assert presets.LEARNED_ITEMS == 20_000
    monkeypatch.setattr(presets, "LEARNED_ITEMS", most)
    _, config = fitted(sparse_folder, **{"learned_items": None, **changes})
    assert config["learned_items"] == expected
    assert run_id.settings_of(config)["learned_items"] == expected


@pytest.mark.parametrize(
    ("changes", "most", "expected"),
    [
        ({}, 10**5, 0.7),
        ({}, 3, 0.0),
        ({"transition_weight": 0.2}, 3, 0.2),
        ({"transition_weight": 0.0}, 10**5, 0.0),
        ({"constrained_training": False}, 10**5, 0.0),
    ],
)
def test_transitions_are_for_small_catalogues_unless_their_weight_is_set(
    sparse_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, most: int, expected: float
) -> None:
    monkeypatch.setattr(presets, "TRANSITIONS_UP_TO", most)
    _, config = fitted(sparse_folder, **changes)
    assert config["transition_weight"] == expected


def test_codes_made_elsewhere_stay_the_target(sparse_folder: Path) -> None:
    folder = sparse_folder / "saved" / "codes" / "walk"
    run("MSCGRecTokenizer", "walk", config_dict=settings(sparse_folder))
    given = {"collaborative": str(folder / "codes_collaborative.json")}
    _, config = fitted(sparse_folder, codes_file=given)
    assert (config["target_modality"], config["neighbour_prob"]) == ("collaborative", 0.2)


def test_tokens_of_one_code_stay_without_vectors(sparse_folder: Path) -> None:
    _, config = fitted(sparse_folder, history_tokens="code")
    assert (config["history_vectors"], config["neighbour_prob"]) == (False, 0.2)


def test_a_saved_model_of_sparse_data_gives_its_metrics_again(sparse_folder: Path) -> None:
    chosen = settings(sparse_folder, epochs=2)
    first = run("MSCGRec", "walk", config_dict=chosen)
    assert set(first["code_health"]) == {"collaborative", "text", "fused"}
    saved = best_file(sparse_folder / "saved", "MSCGRec")
    again = run("MSCGRec", "walk", config_dict={**chosen, "model_file": str(saved)})
    assert again["test_result"] == first["test_result"]


def test_the_settings_file_tells_these_values() -> None:
    text = (properties_folder() / "model" / "MSCGRec.yaml").read_text(encoding="utf-8")
    for key, value in SETTINGS.items():
        (line,) = (row for row in text.splitlines() if row.startswith(f"{key}:"))
        assert f"sparse data: {value}" in line
