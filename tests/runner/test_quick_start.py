"""Whole runs through the command line and `run`: results, saved models, interruptions, errors."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import Trained
from recbole.utils import get_trainer
from recbole.utils.case_study import full_sort_topk
from tiny import best_file, protocol, rule_sequences, settings, write_dataset

import recbole_mscgrec
from recbole_mscgrec.runner.quick_start import load_data_and_model, run, train
from recbole_mscgrec.storage import checkpoint, digest

README = Path(recbole_mscgrec.__file__).resolve().parent.parent / "README.md"
NAMED = {"SASRec", "GRU4Rec", "BERT4Rec", "Pop"}
NAMED |= {"TiledSASRec", "TiledGRU4Rec", "TiledBSARec", "SequentialRules"}


# --- results --------------------------------------------------------------------------------------


def test_result_file_holds_what_run_returns(trained: Trained) -> None:
    stored = json.loads((trained.folder / "result.json").read_text())
    assert stored == digest.sealed(trained.result)
    expected = "model dataset seed settings best_valid_result test_result seconds peak_memory_mb"
    expected += " peak_memory_mb_after peak_gpu_memory_mb n_parameters versions code_health"
    assert set(stored) >= set(expected.split())
    assert (stored["model"], stored["dataset"], stored["seed"]) == ("MSCGRec", "rule", 2020)
    assert {"data", "collaborative", "text", "codes", "train", "test"} <= set(stored["seconds"])
    assert {"python", "torch", "recbole"} <= set(stored["versions"])
    for health in stored["code_health"].values():
        assert {"levels", "collision_rate", "alone_share", "max_items_per_code"} <= set(health)
        assert {"codebook_size", "used", "perplexity"} == set(health["levels"][0])
    state = torch.load(trained.model_file, weights_only=True)["state_dict"]
    assert stored["n_parameters"] == sum(v.numel() for v in state.values())


def test_same_seed_same_result(rule_folder: Path) -> None:
    results = [
        run("MSCGRec", "rule", config_dict=settings(rule_folder, cache_dir=str(rule_folder / name)))
        for name in ("first", "second")
    ]
    assert results[0]["test_result"] == results[1]["test_result"]


@pytest.mark.parametrize("model", sorted(NAMED))
def test_every_model_named_in_the_readme_trains_saves_and_loads(
    rule_folder: Path, model: str
) -> None:
    chosen = protocol(rule_folder)
    result = run(model, "rule", config_dict=chosen)
    test = result["test_result"]
    assert set(test) == {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 5, 10)}
    assert 0 <= test["recall@1"] <= test["recall@5"] <= test["recall@10"] <= 1
    file = best_file(rule_folder / "saved", model)
    again = run(model, "rule", config_dict={**chosen, "model_file": str(file)})
    assert again["test_result"] == test


# --- a saved model from Python --------------------------------------------------------------------


@pytest.mark.parametrize("model", sorted(NAMED))
def test_a_saved_model_comes_with_its_settings_and_data(rule_folder: Path, model: str) -> None:
    result = run(model, "rule", config_dict=protocol(rule_folder, topk=[1, 10], exclude_seen="all"))
    file = best_file(rule_folder / "saved", model)
    config, network, data, _, valid_data, test_data = load_data_and_model(str(file))
    assert (config["model"], config["dataset"], config["topk"]) == (model, "rule", [1, 10])
    assert data.item_num == network.n_items and not network.training
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.eval_collector.data_collect(valid_data)
    assert dict(trainer.evaluate(test_data, load_best_model=False)) == result["test_result"]


def test_a_loaded_model_ranks_for_users_and_for_any_history(trained: Trained) -> None:
    """By RecBole's own tools, and for a history that is in no data set: the rule's next item."""
    _, model, data, _, _, test_data = load_data_and_model(str(trained.model_file))
    users = data.token2id(data.uid_field, ["u0", "u1"])
    scores, items = full_sort_topk(users, model, test_data, k=3)
    rows = torch.cat([(test_data.dataset.inter_feat["user_id"] == u).nonzero() for u in users])
    beams = model.recommend(test_data.dataset.inter_feat[rows.flatten()], beam_size=10)
    assert torch.equal(items, beams.items[:, :3])
    torch.testing.assert_close(scores, beams.log_probs[:, :3])
    tokens = rule_sequences()["u0"]
    history = torch.from_numpy(data.token2id("item_id", tokens[:5])).unsqueeze(0)
    batch = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: torch.tensor([5])}
    best = model.recommend(batch, beam_size=10).items[0, 0]
    assert data.id2token("item_id", best) == tokens[5]


def test_what_cannot_be_loaded_is_named(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_file .nowhere.pth. does not exist"):
        load_data_and_model("nowhere.pth")
    write_dataset(tmp_path / "data", "rule", {f"u{u}": list("abcdefghijkl") for u in range(9)})
    with pytest.raises(ValueError, match="trained on other items"):
        load_data_and_model(str(trained.model_file), {"data_path": str(tmp_path / "data")})
    state = checkpoint.load(trained.model_file)
    del state["chosen"]
    checkpoint.save(tmp_path / "old.pth", state)
    del state["settings"]
    del state["state_dict"]
    checkpoint.save(tmp_path / "old.pth", state)
    with pytest.raises(ValueError, match="lacks state_dict"):
        load_data_and_model(str(tmp_path / "old.pth"))


def test_the_training_page_names_exactly_these_models() -> None:
    page = README.parent / "docs" / "train.md"
    named = set(re.findall(r"--model=(\w+)", page.read_text(encoding="utf-8")))
    with_more_data = {
        "FM",
        "SASRecF",
        "CKE",
        "S3Rec",
        "BPR",
    }  # tests/benchmarks/test_recbole_models.py
    assert named - {"MSCGRec", "MSCGRecTokenizer"} == NAMED | with_more_data


@pytest.mark.slow
@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec"])
def test_baselines_learn_the_rule_too(rule_folder: Path, model: str) -> None:
    """The protocol gives stock models what they need: they are no straw men."""
    sizes = {"hidden_size": 32, "inner_size": 64, "n_layers": 1, "hidden_dropout_prob": 0.1}
    chosen = protocol(rule_folder, **sizes, attn_dropout_prob=0.1, learning_rate=0.01)
    chosen |= {"epochs": 60, "train_batch_size": 256 if model == "SASRec" else 16}
    assert run(model, "rule", config_dict=chosen)["test_result"]["recall@1"] > 0.9


# --- saved models ---------------------------------------------------------------------------------


def test_saved_model_gives_the_same_metrics_to_the_last_digit(
    trained: Trained, tmp_path: Path
) -> None:
    """With its own codes: the cache of the training is not needed."""
    chosen = {**trained.settings, "model_file": str(trained.model_file)}
    chosen |= {"cache_dir": str(tmp_path / "cache"), "result_file": None, "metric_decimal_place": 6}
    before = trained.model_file.read_bytes()
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"] == trained.result["test_result"]
    assert result["best_valid_result"] == trained.result["best_valid_result"]
    assert result["code_health"] == trained.result["code_health"]
    assert not (tmp_path / "cache").exists() and trained.model_file.read_bytes() == before


def test_damaged_model_file_is_refused_before_training(rule_folder: Path) -> None:
    (rule_folder / "bad.pth").write_bytes(b"\x80\x04 not a checkpoint")
    for model, sizes in (("MSCGRec", settings), ("SASRec", protocol)):
        with pytest.raises(ValueError, match="bad.pth is damaged or not a checkpoint"):
            run(model, "rule", config_dict=sizes(rule_folder, model_file="bad.pth"))
        with pytest.raises(ValueError, match="nowhere.pth.* does not exist"):
            run(model, "rule", config_dict=sizes(rule_folder, model_file="nowhere.pth"))
    assert not (rule_folder / "cache").exists()


def test_model_of_other_items_is_refused(trained: Trained, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "rule", rule_sequences(n_items=25))
    chosen = {**trained.settings, "data_path": str(tmp_path / "data"), "result_file": None}
    with pytest.raises(ValueError, match="other items than the 25 of this data"):
        run("MSCGRec", "rule", config_dict={**chosen, "model_file": str(trained.model_file)})


def test_model_file_of_another_model_is_refused(rule_folder: Path, trained: Trained) -> None:
    chosen = protocol(rule_folder, model_file=str(trained.model_file))
    with pytest.raises(ValueError, match="MSCGRec, not SASRec"):
        run("SASRec", "rule", config_dict=chosen)


def test_model_file_of_other_sizes_is_refused(trained: Trained) -> None:
    """The file says which settings it was trained with; torch alone would list every tensor."""
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    with pytest.raises(ValueError, match="hidden_size"):
        run("MSCGRec", "rule", config_dict={**chosen, "hidden_size": 64})


def test_model_file_of_another_version_is_refused(trained: Trained, tmp_path: Path) -> None:
    """The settings are the same, the names of the weights are not."""
    state = torch.load(trained.model_file, weights_only=True)
    weights = state["state_dict"]
    del state["digest"]
    weights["network.old_name"] = weights.pop("network.start")
    torch.save(state, tmp_path / "old.pth")
    chosen = {**trained.settings, "model_file": str(tmp_path / "old.pth"), "result_file": None}
    with pytest.raises(ValueError, match=r"another version .* differs in network\.old_name"):
        run("MSCGRec", "rule", config_dict=chosen)


# --- a modality left out of the test --------------------------------------------------------------


def test_saved_model_is_tested_once_more_without_a_modality(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(tmp_path / "result.json")
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": file}
    result = run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "collaborative"})
    for key in ("test_result", "best_valid_result"):
        assert result[key] == trained.result[key]
    without = result["test_without"]["collaborative"]
    assert set(result["test_without"]) == {"collaborative"} and set(without) == set(
        result["test_result"]
    )
    assert without["ndcg@10"] < result["test_result"]["ndcg@10"]
    assert json.loads(Path(file).read_text()) == digest.sealed(result)
    assert "test_without" not in trained.result


def test_training_is_the_same_with_a_test_without_a_modality(rule_folder: Path) -> None:
    chosen = settings(rule_folder, epochs=2)
    first = run("MSCGRec", "rule", config_dict=chosen)
    second = run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "text"})
    for key in ("test_result", "best_valid_result"):
        assert first[key] == second[key]
    assert len(list((rule_folder / "saved").glob("MSCGRec-*.last.pth"))) == 1  # one name for both
    assert set(second["test_without"]["text"]) == set(first["test_result"])


def test_the_test_without_a_modality_is_logged_under_a_name_of_its_own(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights & Biases keeps the summary of the test."""
    logged: dict[str, dict] = {}
    monkeypatch.setattr(
        "recbole.utils.wandblogger.WandbLogger.log_eval_metrics",
        lambda self, metrics, head="eval": logged.update({head: dict(metrics)}),
    )
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    result = run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "text"})
    assert logged == {"eval": result["test_result"], "without_text": result["test_without"]["text"]}


def test_modality_that_cannot_be_left_out_is_refused_before_training(
    rule_folder: Path, trained: Trained
) -> None:
    for changes, message in (
        ({"eval_drop_modality": "smell"}, r"eval_drop_modality \(smell\) must be one of"),
        (
            {"eval_drop_modality": "collaborative", "modalities": ["collaborative"]},
            r"eval_drop_modality \(collaborative\) must be one of several",
        ),
        # in the list of modalities, but no item has it
        ({"eval_drop_modality": "image"}, r"eval_drop_modality \(image\) must be one of several"),
    ):
        with pytest.raises(ValueError, match=message):
            run("MSCGRec", "rule", config_dict=settings(rule_folder, **changes))
    assert not list((rule_folder / "saved").glob("*.pth"))
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    with pytest.raises(ValueError, match=r"eval_drop_modality \(audio\) must be one of"):
        run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "audio"})


def test_options_of_another_program_are_not_settings(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` inside a script that has options of its own, or under `pytest --durations=5`."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--color=red", "--epochs=7"])
    result = run("TiledSASRec", "rule", config_dict=protocol(rule_folder, epochs=1))
    (file,) = (rule_folder / "saved").glob("*.last.pth")
    assert torch.load(file, weights_only=True)["epoch"] == 0 and result["test_result"]


def test_data_set_without_a_properties_file_or_settings_of_its_own(rule_folder: Path) -> None:
    """Nothing about its columns is said, in a file or on the command line."""
    chosen = settings(rule_folder)
    del chosen["load_col"]
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert set(result["code_health"]) == {"collaborative", "text"}


def test_train_tells_each_validation_and_tests_nothing(rule_folder: Path) -> None:
    told: list[tuple[int, float]] = []
    chosen = protocol(rule_folder, epochs=5, eval_step=2)
    result = train("BPR", "rule", chosen, lambda *given: told.append(given))
    assert [epoch for epoch, _ in told] == [1, 3]
    assert result["best_valid_score"] == max(value for _, value in told)
    assert result["test_result"] is None
    chosen["eval_args"] = {"split": {"RS": [8, 0, 2]}}
    with pytest.raises(ValueError, match="A search needs validation, .* leaves no row"):
        train("BPR", "rule", chosen, lambda *given: None)
