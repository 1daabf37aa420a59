"""Interrupted trainings go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from tiny import best_file, interrupt, protocol, settings

from recbole_mscgrec.features.tiled_models import TiledSASRec
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import checkpoint


def run_interrupted_and_resumed(
    patch: pytest.MonkeyPatch, folder: Path, model: type, call: int, chosen: dict
) -> tuple[dict, dict, dict]:
    """Results of a run without an interruption and of one that stopped at a call of the model's
    loss and was resumed. Their last epochs hold the same weights: also the former's checkpoint."""
    name = model.__name__
    expected = run(name, "rule", config_dict={**chosen, "checkpoint_dir": str(folder / "a")})
    with patch.context() as inside:
        interrupt(inside, model, call)
        with pytest.raises(KeyboardInterrupt, match=r"last finished epoch.*--resume=True"):
            run(name, "rule", config_dict=chosen)
    result = run(name, "rule", config_dict={**chosen, "resume": True})
    assert result["test_result"] == expected["test_result"]
    one, two = (checkpoint.load(next((folder / f).glob("*.last.pth"))) for f in ("a", "saved"))
    assert one["epoch"] == two["epoch"]
    for key, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][key]), key
    return expected, result, one


@pytest.mark.parametrize(
    ("model", "call", "changes"),
    [
        (MSCGRec, 8, {}),
        (TiledSASRec, 5, {}),
        (SASRec, 4, {}),
        (GRU4Rec, 3, {}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_resumed_training_equals_an_uninterrupted_one(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, model: type, call: int, changes: dict
) -> None:
    """The stop comes in the second epoch or later, after some of its batches."""
    sizes = settings if model is MSCGRec else protocol
    chosen = sizes(rule_folder, epochs=6, learning_rate=0.01, **changes)
    if model is not MSCGRec:
        chosen |= {"train_batch_size": 20 if model is TiledSASRec else 150}
    arguments = (monkeypatch, rule_folder, model, call, chosen)
    expected, result, last = run_interrupted_and_resumed(*arguments)
    assert result["best_valid_result"] == expected["best_valid_result"]
    assert last["epoch"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("eval_step", [0, 3])
@pytest.mark.parametrize("model, call", [(MSCGRec, 14), (SASRec, 4)])
def test_epochs_without_a_validation_can_be_resumed(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, model: type, call: int, eval_step: int
) -> None:
    """Every finished epoch is kept, also when RecBole does not call back."""
    sizes = settings if model is MSCGRec else protocol
    chosen = sizes(rule_folder, epochs=5, learning_rate=0.01, eval_step=eval_step)
    if model is SASRec:
        chosen["train_batch_size"] = 150
    *_, last = run_interrupted_and_resumed(monkeypatch, rule_folder, model, call, chosen)
    assert last["epoch"] == 4


def test_best_model_so_far_can_be_evaluated_after_an_interruption(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(rule_folder, epochs=6)
    with monkeypatch.context() as patch:
        interrupt(patch, MSCGRec, 8)
        with pytest.raises(KeyboardInterrupt) as stop:
            run("MSCGRec", "rule", config_dict=chosen)
    (named,) = re.findall(r"--model_file=(\S+\.pth)", str(stop.value))
    result = run("MSCGRec", "rule", config_dict={**chosen, "model_file": named})
    best = checkpoint.load(named)["best_valid_score"]
    assert result["best_valid_result"]["ndcg@10"] == pytest.approx(best, abs=1e-6)
    assert Path(named) == best_file(rule_folder / "saved", "MSCGRec")


def test_stop_before_the_first_epoch_says_so(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, MSCGRec, 2)
    with pytest.raises(KeyboardInterrupt, match="before its first epoch"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_resuming_a_finished_training_evaluates_its_best_model(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(rule_folder, epochs=3)
    first = run("MSCGRec", "rule", config_dict=chosen)
    interrupt(monkeypatch, MSCGRec, 1)  # any further training would stop
    again = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    assert again["test_result"] == first["test_result"]
    assert again["best_valid_result"] == first["best_valid_result"]


def test_a_loss_that_is_no_number_is_told(rule_folder: Path) -> None:
    chosen = protocol(rule_folder, learning_rate=1e20, epochs=5, learner="sgd")
    with pytest.raises(ValueError, match=r"loss of SASRec is not a number: lower learning_rate"):
        run("SASRec", "rule", config_dict=chosen)


def test_resume_before_the_first_finished_epoch_uses_what_is_there(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(rule_folder, epochs=2)
    expected = run("MSCGRec", "rule", config_dict={**chosen, "checkpoint_dir": "elsewhere"})
    with monkeypatch.context() as patch:
        interrupt(patch, MSCGRec, 1)
        with pytest.raises(KeyboardInterrupt, match="before its first epoch.*stages are kept"):
            run("MSCGRec", "rule", config_dict=chosen)
    made = {file: file.stat().st_mtime_ns for file in (rule_folder / "cache").iterdir()}
    result = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    assert result["test_result"] == expected["test_result"]
    stages = [file for file in made if file.suffix == ".safetensors"]
    assert len(stages) >= 3 and all(file.stat().st_mtime_ns == made[file] for file in stages)
