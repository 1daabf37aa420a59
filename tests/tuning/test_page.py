"""The page of a study is one file, shows all trials and loads nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from recbole_mscgrec.tuning import page
from recbole_mscgrec.tuning.plan import Plan
from recbole_mscgrec.tuning.search_space import Choice, Range
from recbole_mscgrec.tuning.study import distribution

EVIL = "</script><script>alert(1)</script>"
SPACE = [Range("learning_rate", 0.1, 0.9), Choice("kind", ("plain", EVIL))]


def plan_of(folder: Path) -> Plan:
    return Plan(*("BPR", "shop", {}, SPACE, folder, 3, None, 5, 2020, "ndcg@10", True, {}))


def study_of(values: list[float]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for n, value in enumerate(values):
        study.add_trial(
            optuna.trial.create_trial(
                params={"learning_rate": 0.1 + n / 10, "kind": (EVIL, "plain")[n % 2]},
                distributions={p.name: distribution(p) for p in SPACE},
                value=value,
                intermediate_values={0: value / 2, 1: value},
            )
        )
    return study


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("study")
    page.write(study_of([0.25, 0.125, 0.5]), plan_of(folder))
    return (folder / "study.html").read_text(encoding="utf-8")


def test_the_page_shows_the_trials_and_the_plots(text: str) -> None:
    assert "3 of 3 trials finished" in text and "<td>0.500000</td>" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Trials",
        "Course of the search",
        "What each setting does",
        "Importance of the settings",
        "Epochs",
    ]
    assert text.count("Plotly.newPlot(") >= 4
    assert "--config_files=" in text


def test_the_page_loads_nothing_and_runs_nothing_of_the_settings(text: str) -> None:
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)
    assert EVIL not in text


def test_what_cannot_be_computed_is_left_out() -> None:
    def titles(values: list[float]) -> list[Any]:
        return [p["title"] for p in page.page_data(study_of(values), plan_of(Path("x")))["plots"]]

    assert titles([]) == []
    assert "Importance of the settings" not in titles([0.5])
