"""A second, saved model that ranks what the beam found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained
from tiny import Built, best_file, build, protocol, rule_sequences, write_dataset

from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.storage import checkpoint

Tensor = torch.Tensor


@pytest.fixture(scope="module")
def second(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TiledSASRec that an epoch on the data of `trained` has taught next to nothing."""
    folder = tmp_path_factory.mktemp("second")
    chosen = protocol(folder, data_path=trained.settings["data_path"], hidden_size=8, n_heads=2)
    run("TiledSASRec", "rule", config_dict=chosen)
    return best_file(folder / "saved", "TiledSASRec")


def built(trained: Trained, second: Path | None, **changes: Any) -> Built:
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    made = build("MSCGRec", "rule", {**chosen, "rescore_model": second and str(second), **changes})
    state = checkpoint.load(trained.model_file)
    made.model.load_state_dict(state["state_dict"])
    made.model.eval()
    return made


def test_scores_are_the_mean_of_both_log_probabilities(trained: Trained, second: Path) -> None:
    alone, both = built(trained, None), built(trained, second, rescore_weight=0.25)
    rows = both.test.dataset.inter_feat[:6]
    ours, theirs = (
        alone.model.full_sort_predict(rows),
        both.model.ensemble.models[0].log_probs(rows),
    )
    torch.testing.assert_close(theirs.exp().sum(1), torch.ones(6))
    assert bool((theirs[:, 0] == -torch.inf).all())
    expected = 0.75 * ours[:, 1:] + 0.25 * theirs[:, 1:]
    mixed = both.model.full_sort_predict(rows)
    torch.testing.assert_close(mixed[:, 1:], expected)
    assert bool((mixed[:, 0] == -torch.inf).all())
    items = rows["item_id"]
    torch.testing.assert_close(both.model.predict(rows), mixed.gather(1, items[:, None])[:, 0])
    # The beam is as wide as the list of all items, so it ranks them as the dense scores do.
    beams = both.model.recommend(rows, beam_size=both.model.n_items)
    order = mixed.argsort(dim=1, descending=True)
    torch.testing.assert_close(beams.log_probs, mixed.gather(1, order))
    torch.testing.assert_close(mixed.gather(1, beams.items), beams.log_probs)


def test_weights_of_nothing_and_of_all(trained: Trained, second: Path) -> None:
    rows = built(trained, None).test.dataset.inter_feat[:6]
    alone = built(trained, None).model.recommend(rows, beam_size=10)
    nothing = built(trained, second, rescore_weight=0.0).model.recommend(rows, beam_size=10)
    assert torch.equal(alone.items, nothing.items)
    everything = built(trained, second, rescore_weight=1.0)
    ranked = everything.model.recommend(rows, beam_size=10)
    assert not torch.equal(alone.items, ranked.items)
    assert torch.equal(alone.items.sort(1).values, ranked.items.sort(1).values)
    theirs = everything.model.ensemble.models[0].log_probs(rows).gather(1, ranked.items)
    assert bool((theirs.diff(dim=1) <= 0).all())


def test_the_second_model_is_no_part_of_the_checkpoint(trained: Trained, second: Path) -> None:
    with_second, without = built(trained, second).model, built(trained, None).model
    assert with_second.state_dict().keys() == without.state_dict().keys()
    assert not any(p.requires_grad for p in with_second.ensemble.models[0].model.parameters())


def test_a_run_with_it_evaluates_the_saved_model(trained: Trained, second: Path) -> None:
    """The rule's next item is certain to the trained model and unknown to the other one."""
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    chosen |= {"rescore_model": str(second)}
    certain = run("MSCGRec", "rule", config_dict={**chosen, "rescore_weight": 0.1})
    lost = run("MSCGRec", "rule", config_dict={**chosen, "rescore_weight": 1.0})
    assert certain["test_result"]["recall@1"] > 0.9 > lost["test_result"]["recall@1"]


@pytest.fixture(scope="module")
def rules(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SequentialRules, which know the rule of the data of `trained`."""
    folder = tmp_path_factory.mktemp("rules")
    data = {"data_path": trained.settings["data_path"], "n_last_items": 1, "text_pairs": 0}
    run("SequentialRules", "rule", config_dict=protocol(folder, **data))
    return best_file(folder / "saved", "SequentialRules")


def test_several_models_have_a_weight_each(trained: Trained, second: Path, rules: Path) -> None:
    files = [str(second), str(rules)]
    alone = built(trained, None)
    rows = alone.test.dataset.inter_feat[:6]
    ours = alone.model.full_sort_predict(rows)
    for given, expected in (
        ([0.2, 0.5], [0.3, 0.2, 0.5]),
        (0.5, [0.5, 0.25, 0.25]),  # shared
        (None, [1 / 3, 1 / 3, 1 / 3]),
    ):
        several = built(trained, second, rescore_model=files, rescore_weight=given)
        parts = [ours, *(m.log_probs(rows) for m in several.model.ensemble.models)]
        mean = sum(w * part[:, 1:] for w, part in zip(expected, parts, strict=True))
        mixed = several.model.full_sort_predict(rows)
        torch.testing.assert_close(mixed[:, 1:], mean)
        items = rows["item_id"]
        torch.testing.assert_close(
            several.model.predict(rows), mixed.gather(1, items[:, None])[:, 0]
        )
        beams = several.model.recommend(rows, beam_size=several.model.n_items)
        torch.testing.assert_close(mixed.gather(1, beams.items), beams.log_probs)


def test_fitted_weights_are_the_same_after_training_and_for_a_saved_model(
    trained: Trained, second: Path, rules: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The network has learned next to nothing in an epoch, and the rules know everything."""
    caplog.set_level("INFO")
    files = [str(second), str(rules)]
    chosen = {**trained.settings, "checkpoint_dir": str(tmp_path), "epochs": 1, "ema_decay": 0.0}
    chosen |= {"result_file": None, "rescore_model": files, "rescore_weight": "fit"}
    result = run("MSCGRec", "rule", config_dict={**chosen, "beam_size": 30})
    weights = result["rescore_weights"]
    assert list(weights) == ["MSCGRec", *files] and sum(weights.values()) == pytest.approx(1)
    assert weights[str(rules)] > 0.3 and result["test_result"]["recall@1"] > 0.9
    assert f"{rules} {weights[str(rules)]}" in caplog.text
    assert "rescore_weight: fit on 40 rows of validation" in caplog.text
    saved = {"model_file": str(best_file(tmp_path, "MSCGRec"))}
    again = run("MSCGRec", "rule", config_dict={**chosen, "beam_size": 30, **saved})
    for key in ("rescore_weights", "test_result", "best_valid_result"):
        assert again[key] == result[key], key
    given = {"rescore_weight": [weights[str(file)] for file in files], **saved}
    same = run("MSCGRec", "rule", config_dict={**chosen, "beam_size": 30, **given})
    assert same["test_result"] == result["test_result"]
    with pytest.raises(ValueError, match="rescore_weight is fit, but only a run fits weights"):
        load_data_and_model(saved["model_file"])


def test_weights_are_not_fitted_without_validation(
    trained: Trained, second: Path, tmp_path: Path
) -> None:
    chosen = {**trained.settings, "checkpoint_dir": str(tmp_path), "result_file": None}
    chosen |= {"eval_args": {"split": {"LS": "test_only"}}, "rescore_weight": "fit"}
    with pytest.raises(ValueError, match="fit needs validation, .*test_only.* no row"):
        run("MSCGRec", "rule", config_dict={**chosen, "rescore_model": str(second)})
    assert not list(tmp_path.glob("*.pth"))


def test_what_cannot_rank_is_refused(trained: Trained, second: Path, rule_folder: Path) -> None:
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=match):
            run("MSCGRec", "rule", config_dict={**chosen, **changes})

    for model in ("Pop", "GRU4Rec"):
        loss = {} if model == "Pop" else {"loss_type": "BPR", "train_neg_sample_args": NEGATIVES}
        run(model, "rule", config_dict=protocol(rule_folder, **loss))
        saved = str(best_file(rule_folder / "saved", model))
        refused(f"holds {model}: .*loss_type CE", rescore_model=saved)
    refused("rescore_model .nowhere.pth. does not exist", rescore_model="nowhere.pth")
    refused("rescore_weight .1.5. must be", rescore_model=str(second), rescore_weight=1.5)
    sequences = {f"u{u}": list("abcdefghijkl") for u in range(9)}
    for name, match in (
        ("other", "trained with dataset other, this run has rule"),
        ("rule", "does not fit the .* items"),
    ):
        write_dataset(rule_folder / name / "data", name, sequences)
        run("TiledSASRec", name, config_dict=protocol(rule_folder / name))
        saved = str(best_file(rule_folder / name / "saved", "TiledSASRec"))
        refused(match, rescore_model=saved)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("item_inter_num_interval", "[2,inf)", r"item_inter_num_interval \[2,inf\)"),
        ("eval_args", {"split": {"RS": [8, 1, 1]}}, r"eval_args split .*RS.* this run has .*LS"),
        ("eval_args", {"order": "RO"}, "eval_args order RO, this run has TO"),
    ],
)
def test_a_model_of_other_items_or_another_split_is_refused(
    trained: Trained, second: Path, tmp_path: Path, key: str, value: Any, match: str
) -> None:
    """Such a model has as many items, under other numbers, or has seen what it is tested on."""
    state = checkpoint.load(second)
    old = state["config"][key]
    state["config"][key] = {**old, **value} if isinstance(value, dict) else value
    checkpoint.save(tmp_path / "other.pth", state)
    with pytest.raises(ValueError, match=match):
        built(trained, tmp_path / "other.pth")


def test_a_model_that_knows_the_items_under_other_numbers_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    """RecBole numbers the items in the order of the file; here its rows have another order. The
    rows of SASRec have another form than those of MSCGRec."""
    write_dataset(tmp_path / "data", "rule", dict(reversed(rule_sequences().items())))
    run("SASRec", "rule", config_dict=protocol(tmp_path))
    with pytest.raises(ValueError, match="rescore_model .* was trained on train rows with the fin"):
        built(trained, best_file(tmp_path / "saved", "SASRec"))


def test_histories_of_prefixes_fit_a_model_of_windows(trained: Trained, second: Path) -> None:
    assert built(trained, second, train_rows="prefix").model.ensemble is not None


def test_a_model_of_this_kind_is_no_second_model(trained: Trained) -> None:
    with pytest.raises(ValueError, match="holds MSCGRec: a second model must score all items"):
        built(trained, trained.model_file)


NEGATIVES = {
    "distribution": "uniform",
    "sample_num": 1,
    "alpha": 1.0,
    "dynamic": False,
    "candidate_num": 0,
}
