"""Whole runs in several processes: files, results, resuming, models that cannot share the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import best_file, in_processes, interrupt, protocol, settings

from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import checkpoint, digest, processes
from recbole_mscgrec.storage.errors import UserError


def files_of(folder: Path, *suffixes: str) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.suffix in suffixes)


@pytest.fixture
def chosen(rule_folder: Path) -> dict[str, Any]:
    here = {name: str(rule_folder / file) for name, file in (("result_file", "two.json"),)}
    return settings(rule_folder, epochs=2, log_dir=str(rule_folder / "logs"), **here)


def test_a_run_in_two_processes(rule_folder: Path, chosen: dict[str, Any]) -> None:
    """Both get the result, one writes the files, and the saved model, evaluated in one process,
    gives the same metrics and ranks."""
    (rule_folder / "logs").mkdir()
    ranks = rule_folder / "two.npz"
    two = {**chosen, "per_user_file": str(ranks), "eval_batch_size": 16}
    two["eval_drop_modality"] = "text"
    first, second = in_processes(2, lambda: run("MSCGRec", "rule", config_dict=two))
    assert first == second and first["n_processes"] == 2
    assert json.loads((rule_folder / "two.json").read_text()) == digest.sealed(first)
    assert len(files_of(rule_folder / "logs", ".log")) == 1
    assert len(list((rule_folder / "logs" / "log_tensorboard").iterdir())) == 1
    file = best_file(rule_folder / "saved", "MSCGRec")
    one_file = rule_folder / "one.npz"
    again = {**two, "model_file": str(file), "per_user_file": str(one_file), "result_file": None}
    one = run("MSCGRec", "rule", config_dict=again)
    assert one["n_processes"] == 1
    for name in ("best_valid_result", "test_result", "level_share", "test_without"):
        assert one[name] == first[name]
    held = [dict(np.load(path, allow_pickle=False)) for path in (ranks, one_file)]
    assert all(np.array_equal(held[0][name], held[1][name]) for name in held[0])


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(2, 1, 2), (2, 2, 2)])
def test_resuming_with_another_number_of_processes(
    chosen: dict[str, Any], rule_folder: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple
) -> None:
    """Each run but the last one is stopped in its second epoch. With the same number, the result is
    that of an undisturbed run."""
    chosen = {**chosen, "epochs": 3, "train_batch_size": 40}  # one step per epoch
    apart = {**chosen, "checkpoint_dir": str(rule_folder / "apart")}
    undisturbed = in_processes(2, lambda: run("MSCGRec", "rule", config_dict=apart))

    def stopped() -> None:
        interrupt(monkeypatch, MSCGRec, call=2)
        with pytest.raises(KeyboardInterrupt, match="--resume=True"):
            run("MSCGRec", "rule", config_dict={**chosen, "resume": True})

    for n in numbers[:-1]:
        in_processes(n, stopped)
    results = in_processes(
        numbers[-1], lambda: run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    )
    (last,) = (rule_folder / "saved").glob("*.last.pth")
    assert checkpoint.load(last)["epoch"] == 2
    same = results[0]["test_result"] == undisturbed[0]["test_result"]
    assert results[0]["test_result"] == results[1]["test_result"]
    assert same or numbers != (2, 2, 2)


def test_random_numbers_differ_after_equal_weights(
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw() -> tuple[float, float]:
        drawn: list[float] = []
        original = MSCGRec.calculate_loss

        def calculate_loss(self: Any, interaction: Any) -> Any:
            if not drawn:
                weights = sum(float(p.detach().sum()) for p in self.parameters())
                drawn.extend([weights, float(torch.rand(1))])
            return original(self, interaction)

        monkeypatch.setattr(MSCGRec, "calculate_loss", calculate_loss)
        run("MSCGRec", "rule", config_dict={**chosen, "epochs": 1})
        return drawn[0], drawn[1]

    (weights, one), (same_weights, other) = in_processes(2, draw)
    assert weights == same_weights and one != other


def test_the_codes_alone(rule_folder: Path, chosen: dict[str, Any]) -> None:
    codes = {**chosen, "codes_dir": str(rule_folder / "codes")}
    first, second = in_processes(2, lambda: run("MSCGRecTokenizer", "rule", config_dict=codes))
    assert first["test_result"] == second["test_result"] != {}
    assert "health.json" in files_of(rule_folder / "codes", ".json")


@pytest.mark.parametrize(
    "model, trainer", [("Pop", "TraditionalTrainer"), ("RecVAE", "RecVAETrainer")]
)
def test_a_model_that_cannot_share_the_work(rule_folder: Path, model: str, trainer: str) -> None:
    with pytest.raises(UserError, match=f"{model} is trained by RecBole's {trainer}"):
        in_processes(2, lambda: run(model, "rule", config_dict=protocol(rule_folder)))


def test_other_settings_are_noticed(rule_folder: Path) -> None:
    def start() -> None:
        chosen = protocol(rule_folder, learning_rate=0.1 + processes.rank())
        run("SASRec", "rule", config_dict=chosen)

    with pytest.raises(UserError, match="The settings of process 1 and of process 0 differ"):
        in_processes(2, start)


def test_other_codes_are_noticed(chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        original = MSCGRec.__init__

        def __init__(self: Any, *args: Any) -> None:
            original(self, *args)
            self.code_state["table"]["target"] += str(processes.rank())

        monkeypatch.setattr(MSCGRec, "__init__", __init__)
        run("MSCGRec", "rule", config_dict=chosen)

    with pytest.raises(UserError, match="The item codes of process 1 and of process 0 differ"):
        in_processes(2, start)
