"""A training is resumed only with what it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.sequential_recommender.sasrec import SASRec
from tiny import (
    best_file,
    coloured_shapes,
    interrupt,
    item_texts,
    protocol,
    rule_sequences,
    settings,
    write_dataset,
    write_item,
)

from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner.quick_start import load_data_and_model, run


def stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: type = MSCGRec, **changes: Any
) -> tuple[dict[str, Any], Path]:
    """The settings that resume a training stopped in its second epoch, and its last checkpoint."""
    sizes = settings if model is MSCGRec else protocol
    chosen = sizes(folder, epochs=3, **changes)
    if model is not MSCGRec:
        chosen["train_batch_size"] = 150
    with monkeypatch.context() as patch:
        interrupt(patch, model, 8 if model is MSCGRec else 3)
        with pytest.raises(KeyboardInterrupt, match="--resume=True"):
            run(model.__name__, "rule", config_dict=chosen)
    return {**chosen, "resume": True}, next((folder / "saved").glob("*.last.pth"))


def as_up_to_version_0_2(last: Path) -> dict[str, Any]:
    """The content of `last` with the item codes themselves, which are those of the best model."""
    state, best = (
        torch.load(file, weights_only=True) for file in (last, best_file(last.parent, "MSCGRec"))
    )
    state["other_parameter"] = best["other_parameter"]
    del state["digest"], state["codes"]
    return state


def other_rows(folder: Path) -> None:
    """The same users and items with the same ids, but later users walk the other way round."""
    sequences = rule_sequences()
    turned = {u: items[::-1] if int(u[1:]) > 19 else items for u, items in sequences.items()}
    write_dataset(folder / "data", "rule", turned, item_texts())


@pytest.mark.parametrize("model", [MSCGRec, SASRec])
def test_other_train_rows_are_refused_with_both_fingerprints(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, model: type
) -> None:
    chosen, last = stopped(rule_folder, monkeypatch, model)
    before = torch.load(last, weights_only=True)["train_rows"]["rows"]
    other_rows(rule_folder)
    match = rf"resume.*{last.name}.*fingerprint {before}, and this run has [0-9a-f]{{20}}:"
    with pytest.raises(ValueError, match=match):
        run(model.__name__, "rule", config_dict=chosen)


def test_other_texts_are_refused(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = stopped(rule_folder, monkeypatch)
    write_item(rule_folder / "data", "rule", {f"i{i}": f"other{i % 7} words" for i in range(30)})
    match = "the text input had the fingerprint [0-9a-f]{20}, but now has [0-9a-f]{20}"
    with pytest.raises(ValueError, match=match):
        run("MSCGRec", "rule", config_dict=chosen)


def test_other_images_are_refused(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rule_folder / "data" / "rule" / "images"
    folder.mkdir()
    for n, image in enumerate(coloured_shapes(30)):
        image.save(folder / f"i{n}.png")
    sizes = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    chosen, _ = stopped(
        rule_folder,
        monkeypatch,
        image_tokenizer="features",
        image_backbone="vit_tiny_patch16_224",
        image_backbone_args=sizes,
        image_size=16,
        image_local_size=8,
    )
    coloured_shapes(1, seed=9)[0].save(folder / "i3.png")
    with pytest.raises(ValueError, match="the image input had the fingerprint"):
        run("MSCGRec", "rule", config_dict=chosen)


def test_other_codes_are_refused(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, last = stopped(rule_folder, monkeypatch)
    state = torch.load(last, weights_only=True)
    state["codes"]["table"] = "0" * 20
    del state["digest"]
    torch.save(state, last)
    with pytest.raises(ValueError, match="the item codes had the fingerprint 0000"):
        run("MSCGRec", "rule", config_dict=chosen)


def test_other_items_with_a_learned_vector_are_refused(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, last = stopped(rule_folder, monkeypatch, learned_items=7)
    state = torch.load(last, weights_only=True)
    assert len(state["codes"]["learned"]) == 20
    state["codes"]["learned"] = "0" * 20
    del state["digest"]
    torch.save(state, last)
    with pytest.raises(ValueError, match="items with a learned vector had the fingerprint 0000"):
        run("MSCGRec", "rule", config_dict=chosen)


@pytest.mark.parametrize("same", [True, False], ids=["the same codes", "other codes"])
def test_an_older_file_holds_the_codes_themselves(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    chosen, last = stopped(rule_folder, monkeypatch)
    state = as_up_to_version_0_2(last)
    table = state["other_parameter"]["code_state"]["table"]
    table["codes"] = {name: codes.long() for name, codes in table["codes"].items()}
    if not same:
        table["codes"]["text"][1, 0] = (table["codes"]["text"][1, 0] + 1) % 6
    torch.save(state, last)
    if same:
        assert run("MSCGRec", "rule", config_dict=chosen)["test_result"]
        return
    with pytest.raises(ValueError, match="the item codes had the fingerprint"):
        run("MSCGRec", "rule", config_dict=chosen)


def test_codes_are_stored_with_the_best_model_and_not_at_every_epoch(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, last = stopped(rule_folder, monkeypatch)
    best = best_file(rule_folder / "saved", "MSCGRec")
    assert not torch.load(last, weights_only=True)["other_parameter"]
    assert torch.load(best, weights_only=True)["other_parameter"]["code_state"]["table"]
    message = f"{last.name} is an interrupted training.*best model so far, {best.name}"
    with pytest.raises(ValueError, match=message):
        run("MSCGRec", "rule", config_dict={"model_file": str(last)})


def _without_average(state: dict) -> None:
    state["training"]["average"].pop()


def _other_sizes(state: dict) -> None:
    name = next(iter(state["state_dict"]))
    state["state_dict"][name] = state["state_dict"][name][:-1]


def _other_moments(state: dict) -> None:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def _no_random(state: dict) -> None:
    state["random"]["numpy"] = ["MT19937"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_average, "moving average"),
        (_other_sizes, "does not fit this training: state_dict"),
        (_other_moments, r"optimizer.state.0.exp_avg has the shape \(3,\)"),
        (_no_random, "state of the random generators is damaged"),
        (lambda state: state.pop("optimizer"), "last.pth is not such a checkpoint: it lacks opt"),
        (lambda state: state.update(epoch="two"), "epoch must be int, not str"),
        (lambda state: state.update(random=[]), "random must be a mapping, not list"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    rule_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[dict], Any],
    message: str,
) -> None:
    chosen, last = stopped(rule_folder, monkeypatch, ema_decay=0.9)
    state = torch.load(last, weights_only=True)
    del state["digest"]
    damage(state)
    torch.save(state, last)
    with pytest.raises(ValueError, match=message):
        run("MSCGRec", "rule", config_dict=chosen)


def test_a_damaged_or_missing_best_model_is_named(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, _ = stopped(rule_folder, monkeypatch)
    best = best_file(rule_folder / "saved", "MSCGRec")
    best.write_bytes(best.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{best.name} is damaged"):
        run("MSCGRec", "rule", config_dict=chosen)
    best.unlink()
    with pytest.raises(ValueError, match=f"the best model so far, .*{best.name}, is missing"):
        run("MSCGRec", "rule", config_dict=chosen)


def test_checkpoints_of_older_versions_are_resumed(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, last = stopped(rule_folder, monkeypatch)
    expected = run("MSCGRec", "rule", config_dict={**chosen, "resume": False})
    chosen, last = stopped(rule_folder, monkeypatch)
    best = best_file(rule_folder / "saved", "MSCGRec")
    for file, state in (
        (last, as_up_to_version_0_2(last)),
        (best, torch.load(best, weights_only=True)),
    ):
        state.pop("digest", None)
        del state["train_rows"], state["other_parameter"]["code_state"]["inputs"]
        torch.save(state, file)
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"] == expected["test_result"]


def test_a_saved_model_is_not_tested_on_rows_it_may_have_seen(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(rule_folder)
    run("MSCGRec", "rule", config_dict=chosen)
    best = str(best_file(rule_folder / "saved", "MSCGRec"))
    other_rows(rule_folder)
    with pytest.raises(ValueError, match=r"model_file \(.*trained on train rows with the finger"):
        run("MSCGRec", "rule", config_dict={**chosen, "model_file": best})
    caplog.clear()
    load_data_and_model(best)  # to recommend for new histories
    assert "model_file" in caplog.text and "the fingerprint" in caplog.text
