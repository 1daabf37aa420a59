"""Transitions in MSCGRec: in search and scores, in saved models, and after fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Trained
from tiny import Built, best_file, build, randomize, rule_sequences, settings, write_dataset

from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.storage import checkpoint


def transitions_alone(folder: Path) -> Built:
    """MSCGRec with random weights, of which only the transitions count; in eval mode."""
    chosen = {"transition_weight": 1.0, "modalities": ["collaborative", "text"]}
    built = build("MSCGRec", "rule", settings(folder, **chosen))
    randomize(built.model)
    built.model.eval().requires_grad_(False)
    return built


def test_with_the_whole_weight_items_are_ranked_by_the_transitions(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = transitions_alone(rule_folder)
    model, rows = built.model, built.test.dataset.inter_feat[:7]
    expected = model.transitions(rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN])[:, 1:].log()
    scores = model.full_sort_predict(rows)[:, 1:]
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
    beams = model.recommend(rows, beam_size=model.n_items)
    order = scores.argsort(dim=1, descending=True, stable=True) + 1
    torch.testing.assert_close(beams.log_probs[:, :-1], scores.gather(1, order - 1))
    one = model.predict(rows)
    torch.testing.assert_close(one, scores.gather(1, rows["item_id"][:, None] - 1)[:, 0])
    monkeypatch.setattr("recbole_mscgrec.transitions.model._SCORES_AT_ONCE", 3 * model.n_items)
    torch.testing.assert_close(model.predict(rows), one)  # in parts
    levels = model.level_log_probs(rows, torch.tensor([2, 2, 0]), rows["item_id"][[2, 4, 0]])
    torch.testing.assert_close(levels.sum(0)[[0, 2]], one[[2, 0]])


def test_without_text_the_texts_of_the_transitions_do_not_count_either(rule_folder: Path) -> None:
    built = transitions_alone(rule_folder)
    model, rows = built.model, built.test.dataset.inter_feat[:5]
    history = rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN]
    with model.without_modality("text"):
        scores = model.full_sort_predict(rows)[:, 1:].exp()
    rules = model.transitions(*history, texts=False)[:, 1:]
    torch.testing.assert_close(scores, rules, rtol=1e-3, atol=1e-5)
    assert (rules - model.transitions(*history)[:, 1:]).abs().max() > 0.01


def test_they_are_saved_and_their_weight_may_change_later(trained: Trained) -> None:
    state = checkpoint.load(trained.model_file)
    assert set(state["other_parameter"]["code_state"]["transitions"]) >= {"start", "item", "text"}
    assert not any("transitions" in name for name in state["state_dict"])
    _, model, *_ = load_data_and_model(str(trained.model_file))
    assert model.transition_weight == 0.7 and model.transitions is not None
    _, model, *_ = load_data_and_model(str(trained.model_file), {"transition_weight": 0.0})
    assert model.transitions is None


def test_a_model_that_was_trained_without_has_none(rule_folder: Path) -> None:
    run("MSCGRec", "rule", config_dict=settings(rule_folder, transition_weight=0.0))
    file = str(best_file(rule_folder / "saved", "MSCGRec"))
    _, model, *_ = load_data_and_model(file)
    assert model.transitions is None
    with pytest.raises(ValueError, match="holds none, since it was trained with transition_weight"):
        load_data_and_model(file, {"transition_weight": 0.5})


def test_fine_tuning_counts_those_of_its_own_data(rule_folder: Path) -> None:
    run("MSCGRec", "rule", config_dict=settings(rule_folder))
    first = str(best_file(rule_folder / "saved", "MSCGRec"))
    longer = {user: [*items, *items[:3]] for user, items in rule_sequences().items()}
    write_dataset(rule_folder / "data", "rule", longer)
    chosen = settings(rule_folder, initial_model=first, checkpoint_dir=str(rule_folder / "more"))
    built = build("MSCGRec", "rule", chosen)
    before = checkpoint.load(first)["other_parameter"]["code_state"]["transitions"]
    counted = built.model.transitions
    assert not torch.equal(counted.popularity, before["popularity"])
    assert torch.equal(counted.text, before["text"].float())
    run("MSCGRec", "rule", config_dict=chosen)
    second = checkpoint.load(best_file(rule_folder / "more", "MSCGRec"))
    saved = second["other_parameter"]["code_state"]["transitions"]
    assert torch.equal(saved["popularity"], counted.popularity)
