"""Saved models: beginning a training at one, and evaluating one with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained
from tiny import best_file, protocol, rule_sequences, settings, write_table

from recbole_mscgrec.config.run_id import check_same_data
from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.storage.errors import UserError


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


@pytest.mark.parametrize("learned_items", [30, 7])
def test_weights_of_zero_may_join_a_saved_model(
    trained: Trained, tmp_path: Path, learned_items: int
) -> None:
    """They begin at zero, so with next to no learning rate it knows what it knew; but a saved
    model is not evaluated with weights that it does not have."""
    chosen = begun_at(trained, tmp_path, learning_rate=1e-12, epochs=1, learned_items=learned_items)
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"]["recall@1"] == 1.0
    assert result["n_parameters"] > trained.result["n_parameters"]
    evaluated = {**chosen, "initial_model": None, "model_file": str(trained.model_file)}
    with pytest.raises(ValueError, match="learned_items"):
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
    with pytest.raises(ValueError, match=r"initial_model .* sizes do not fit .*--hidden_size="):
        run("MSCGRec", "rule", config_dict=begun_at(trained, tmp_path, hidden_size=48))
    with pytest.raises(ValueError, match=r"initial_model \(nowhere.pth\) does not exist"):
        run("MSCGRec", "rule", config_dict=begun_at(trained, tmp_path, initial_model="nowhere.pth"))
    with pytest.raises(ValueError, match="leave one of them out"):
        both = begun_at(trained, tmp_path, model_file=str(trained.model_file))
        run("MSCGRec", "rule", config_dict=both)


# --- evaluating a saved model ---------------------------------------------------------------------


def evaluated(trained: Trained, **changes: Any) -> dict[str, Any]:
    """What `--model_file` gives with no other setting than where the data are, and `changes`."""
    given = {"data_path": trained.settings["data_path"], "show_progress": False}
    given |= {"model_file": str(trained.model_file), **changes}
    return run("MSCGRec", "rule", config_dict=given)


def test_a_saved_model_is_evaluated_with_the_settings_it_was_trained_with(trained: Trained) -> None:
    result = evaluated(trained)
    assert result["test_result"] == trained.result["test_result"]
    assert result["settings"] == trained.result["settings"]
    assert result["settings"]["hidden_size"] == 32 and result["made_by"]["version"]


def test_what_is_measured_may_change_after_training(trained: Trained, tmp_path: Path) -> None:
    changes = {"topk": [2], "metrics": ["Recall"], "valid_metric": "Recall@2", "beam_size": 12}
    changes |= {"exclude_seen": "history", "result_file": str(tmp_path / "r.json")}
    assert set(evaluated(trained, **changes)["test_result"]) == {"recall@2"}
    assert (tmp_path / "r.json").is_file()


@pytest.mark.parametrize("model", ["MSCGRec", "TiledSASRec"])
def test_a_training_does_not_begin_at_what_knows_its_test(
    rule_folder: Path, tmp_path: Path, model: str
) -> None:
    """98 of 100 rows trained the saved model; under leave-one-out some of them are the test."""
    chosen = (settings if model == "MSCGRec" else protocol)(rule_folder)
    ratio = {"eval_args": {"split": {"RS": [98, 1, 1]}}, "checkpoint_dir": str(tmp_path)}
    run(model, "rule", config_dict={**chosen, **ratio})
    file = str(best_file(tmp_path, model))
    told = r"initial_model .* was trained with eval_args split .*RS.*, this run has .*LS"
    with pytest.raises(UserError, match=told):
        run(model, "rule", config_dict={**chosen, "initial_model": file})
    with pytest.raises(UserError, match="initial_model .* user_inter_num_interval"):
        fewer = {"user_inter_num_interval": "[3,inf)", "initial_model": file, **ratio}
        run(model, "rule", config_dict={**chosen, **fewer, "checkpoint_dir": str(rule_folder)})


def test_a_random_split_is_another_one_for_another_seed() -> None:
    args = {"split": {"RS": [8, 1, 1]}, "order": "RO", "group_by": "user"}
    one, two = ({"dataset": "d", "eval_args": args, "seed": seed} for seed in (1, 2))
    check_same_data("initial_model", "m.pth", one, one)
    with pytest.raises(UserError, match="was trained with seed 1, this run has 2"):
        check_same_data("initial_model", "m.pth", one, two)
    for settings_ in (one, two):
        settings_["eval_args"] = {**args, "order": "TO"}
    check_same_data("initial_model", "m.pth", one, two)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("constrained_training", False),
        ("MAX_ITEM_LIST_LENGTH", 5),
        ("hidden_size", 48),
        ("seed", 7),
        ("user_inter_num_interval", "[9,inf)"),
        ("eval_args", {"split": {"RS": [8, 1, 1]}, "order": "TO", "mode": "full"}),
    ],
)
def test_what_training_depends_on_is_refused_by_name(
    trained: Trained, key: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"was trained with {key} .*cannot change after training"):
        evaluated(trained, **{key: value})


def test_what_was_chosen_is_what_the_user_gave_now_or_when_training(trained: Trained) -> None:
    """Not all the settings that the checkpoint holds."""
    chosen = set(evaluated(trained, topk=[1, 10], valid_metric="NDCG@10")["chosen"])
    before = set(trained.result["chosen"])
    assert "collision" not in before and before <= chosen
    assert chosen - before <= {"topk", "valid_metric", "model_file"}


def test_the_same_values_given_again_are_no_change(trained: Trained) -> None:
    again = evaluated(trained, hidden_size=32, MAX_ITEM_LIST_LENGTH=12, seed=2020)
    assert again["test_result"] == trained.result["test_result"]


def test_a_model_that_an_earlier_version_saved(trained: Trained, tmp_path: Path) -> None:
    """It has `chosen` in place of `settings`, and names that are gone."""
    state = checkpoint.load(trained.model_file)
    del state["settings"]
    old = {"exclude_seen": False, "seen_items": "all", "quantizer": "kmeans", "item_bias": True}
    for part in ("config", "chosen"):
        state[part] = {k: v for k, v in state[part].items() if k != "decoder"} | old
    checkpoint.save(tmp_path / "old.pth", state)
    result = evaluated(trained, model_file=str(tmp_path / "old.pth"))
    assert result["test_result"] == trained.result["test_result"]
    state["chosen"]["quantizer"] = "sinkhorn"
    checkpoint.save(tmp_path / "old.pth", state)
    with pytest.raises(ValueError, match="old.pth was trained with quantizer=sinkhorn"):
        evaluated(trained, model_file=str(tmp_path / "old.pth"))


@pytest.mark.parametrize(("source", "similarity"), [("SASRec", "dot"), ("GRU4Rec", "cosine")])
def test_a_model_whose_collaborative_vectors_an_earlier_version_made(
    trained: Trained, tmp_path: Path, source: str, similarity: str
) -> None:
    """It contains its codes, so any vectors will do; but no run can be given these settings."""
    old = {"collaborative_source": source, "collaborative_similarity": similarity}
    state = checkpoint.load(trained.model_file)
    for part in ("config", "settings", "chosen"):
        state[part] |= old
    file, folder = tmp_path / "old.pth", str(tmp_path / "cache")
    checkpoint.save(file, state)
    result = evaluated(trained, model_file=str(file), cache_dir=folder)
    assert result["test_result"] == trained.result["test_result"]
    assert not old.keys() & (result["settings"].keys() | result["chosen"].keys())
    begun = begun_at(trained, tmp_path, initial_model=str(file), epochs=1, cache_dir=folder)
    assert run("MSCGRec", "rule", config_dict=begun)["code_health"] == result["code_health"]
    assert not (tmp_path / "cache").exists()  # nothing was made anew
    with pytest.raises(ValueError, match="collaborative_.* is no longer a setting"):
        evaluated(trained, model_file=str(file), **old)


@pytest.mark.parametrize("learned", [True, False])
def test_in_an_earlier_version_all_items_had_a_learned_vector_or_none(
    rule_folder: Path, learned: bool
) -> None:
    chosen = settings(rule_folder, learned_items=30 * learned)
    before = run("MSCGRec", "rule", config_dict=chosen)
    file = best_file(rule_folder / "saved", "MSCGRec")
    state = checkpoint.load(file)
    del state["other_parameter"]["code_state"]["learned"]
    for part in ("config", "settings", "chosen"):
        del state[part]["learned_items"]
        state[part]["learned_vectors"] = learned
    checkpoint.save(rule_folder / "old.pth", state)
    given = {"data_path": chosen["data_path"], "show_progress": False}
    old = {**given, "model_file": str(rule_folder / "old.pth")}
    again = run("MSCGRec", "rule", config_dict=old)
    assert again["test_result"] == before["test_result"]
    assert again["settings"]["learned_items"] == 30 * learned
    with pytest.raises(ValueError, match=f"was trained with learned_items {30 * learned} .not 7.,"):
        run("MSCGRec", "rule", config_dict={**old, "learned_items": 7})
    begun = {**chosen, "initial_model": old["model_file"], "learned_items": 7}
    if learned:
        with pytest.raises(ValueError, match="sizes do not fit .* --learned_items=30"):
            run("MSCGRec", "rule", config_dict=begun)


@pytest.mark.parametrize("model", ["MSCGRec", "SASRec"])
def test_data_without_times_need_none_after_training_either(rule_folder: Path, model: str) -> None:
    """The saved TIME_FIELD is RecBole's default, and nobody has named it."""
    rows = [f"{user} {item}" for user, items in rule_sequences().items() for item in items]
    write_table(rule_folder / "data", "rule", "inter", "user_id:token item_id:token", rows)
    chosen = (settings if model == "MSCGRec" else protocol)(rule_folder)
    del chosen["load_col"]
    before = run(model, "rule", config_dict=chosen)
    file = str(best_file(rule_folder / "saved", model))
    given = {"data_path": chosen["data_path"], "show_progress": False}
    again = run(model, "rule", config_dict={**given, "model_file": file})
    assert again["test_result"] == before["test_result"]
    assert len(load_data_and_model(file, given)[-1]._dataset) == len(rule_sequences())
    with pytest.raises(UserError, match=r"has no column 'timestamp' \(TIME_FIELD\)"):
        load_data_and_model(file, {**given, "TIME_FIELD": "timestamp"})


def test_more_learned_items_than_there_are_may_be_asked_for_again(rule_folder: Path) -> None:
    chosen = settings(rule_folder, learned_items=50_000)
    before = run("MSCGRec", "rule", config_dict=chosen)
    assert before["settings"]["learned_items"] == 30
    file = str(best_file(rule_folder / "saved", "MSCGRec"))
    again = run("MSCGRec", "rule", config_dict={**chosen, "model_file": file})
    assert again["test_result"] == before["test_result"]


def test_another_model_or_data_set_is_named(trained: Trained) -> None:
    chosen = {"data_path": trained.settings["data_path"], "model_file": str(trained.model_file)}
    with pytest.raises(ValueError, match="holds MSCGRec, not SASRec: add --model=MSCGRec"):
        run("SASRec", "rule", config_dict=chosen)
    with pytest.raises(ValueError, match="was trained on rule, not ml-100k: add --dataset=rule"):
        run("MSCGRec", "ml-100k", config_dict=chosen)
