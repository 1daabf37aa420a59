"""Ctrl-C says what is kept and how to go on, wherever it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import best_file, settings

from recbole_mscgrec.features import collaborative
from recbole_mscgrec.plugin.trainer import MSCGRecTrainer
from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.runner.stops import stopped


def press(*args: Any, **kwargs: Any) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


def test_a_message_is_added_once() -> None:
    with pytest.raises(KeyboardInterrupt, match="inner"), stopped(lambda: "outer"):
        with stopped(lambda: "inner"):
            press()


def test_in_sasrec_the_finished_stages_are_named(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collaborative._Progress, "update", press)
    with pytest.raises(KeyboardInterrupt, match=r"are kept in .*cache.*Repeat the command"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_while_data_are_read(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_start, "create_dataset", press)
    with pytest.raises(KeyboardInterrupt, match="while the data were read"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_in_the_test_the_trained_model_is_named_and_can_be_tested(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, original = settings(rule_folder), MSCGRecTrainer.evaluate

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return press() if kwargs.get("load_best_model", True) else original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MSCGRecTrainer, "evaluate", evaluate)
        with pytest.raises(KeyboardInterrupt) as stop:
            run("MSCGRec", "rule", config_dict=chosen)
    file = best_file(rule_folder / "saved", "MSCGRec")
    assert f"kept in {file}" in str(stop.value) and "--resume=True" in str(stop.value)
    resumed = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    named = run("MSCGRec", "rule", config_dict={**chosen, "model_file": str(file)})
    assert resumed["test_result"] == named["test_result"]
