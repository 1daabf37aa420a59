"""`initial_model`: a training that begins at the weights and codes of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Trained
from tiny import best_file, protocol

from recbole_mscgrec.runner.quick_start import run


def begun_at(trained: Trained, folder: Path, **changes: object) -> dict:
    chosen = {**trained.settings, "initial_model": str(trained.model_file), "result_file": None}
    return {**chosen, "checkpoint_dir": str(folder / "saved"), **changes}


def test_begins_at_the_saved_weights_and_codes(trained: Trained, tmp_path: Path) -> None:
    """One epoch with next to no learning rate: what was learned is still there, at a longer
    history, with other random numbers and without the cache of the codes."""
    chosen = begun_at(trained, tmp_path, learning_rate=1e-12, weight_decay=0.0, epochs=1)
    chosen |= {"MAX_ITEM_LIST_LENGTH": 20, "seed": 7, "cache_dir": str(tmp_path / "cache")}
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"]["recall@1"] == trained.result["test_result"]["recall@1"] == 1.0
    assert result["code_health"] == trained.result["code_health"]
    assert not (tmp_path / "cache").exists()
    before = torch.load(trained.model_file, weights_only=True)["state_dict"]
    after = torch.load(best_file(tmp_path / "saved", "MSCGRec"), weights_only=True)["state_dict"]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)


def test_learned_vectors_may_join_a_saved_model(trained: Trained, tmp_path: Path) -> None:
    """They begin at zero, so with next to no learning rate it knows what it knew; but a saved
    model is not evaluated with weights that it does not have."""
    chosen = begun_at(trained, tmp_path, learning_rate=1e-12, epochs=1, learned_vectors=True)
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"]["recall@1"] == 1.0
    assert result["n_parameters"] > trained.result["n_parameters"]
    evaluated = {**chosen, "initial_model": None, "model_file": str(trained.model_file)}
    with pytest.raises(ValueError, match="learned_vectors"):
        run("MSCGRec", "rule", config_dict=evaluated)


def test_other_models_begin_so_too(rule_folder: Path) -> None:
    chosen = protocol(rule_folder)
    run("TiledSASRec", "rule", config_dict=chosen)
    saved = best_file(rule_folder / "saved", "TiledSASRec")
    again = {**chosen, "initial_model": str(saved), "learning_rate": 1e-12, "seed": 7}
    again["checkpoint_dir"] = str(rule_folder / "again")
    run("TiledSASRec", "rule", config_dict=again)
    states = [
        torch.load(file, weights_only=True)["state_dict"]
        for file in (saved, best_file(rule_folder / "again", "TiledSASRec"))
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=1e-6, rtol=0)


def test_what_does_not_fit_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"initial_model .* other sizes .*--hidden_size="):
        run("MSCGRec", "rule", config_dict=begun_at(trained, tmp_path, hidden_size=48))
    with pytest.raises(ValueError, match=r"initial_model \(nowhere.pth\) does not exist"):
        run("MSCGRec", "rule", config_dict=begun_at(trained, tmp_path, initial_model="nowhere.pth"))
    with pytest.raises(ValueError, match="leave one of them out"):
        both = begun_at(trained, tmp_path, model_file=str(trained.model_file))
        run("MSCGRec", "rule", config_dict=both)
