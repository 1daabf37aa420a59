"""Models of RecBole run from the command line, on data of their kind."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def bench(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script recbole_models, with data of a few users."""
    bench = script("recbole_models")
    monkeypatch.setattr(bench, "N_USERS", 12)
    monkeypatch.setattr(bench, "LENGTH", 6)
    return bench


BAR = "SASRec GRU4Rec BERT4Rec LightGCN SASRecF FDSA FM DeepFM CKE S3Rec".split()
# Models with repairs of their own, and such as have several stages.
REPAIRED = "KSR RaCT KD_DAGFM SASRecCPR NGCF GCMC SpectralCF".split()
SINCE_1_2_1 = {"AsymKNN", "GRU4RecCPR", "SASRecCPR"}


@pytest.mark.parametrize("model", [*BAR, *REPAIRED])
def test_a_model_runs_for_one_epoch(
    model: str, bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dict(bench.models())
    if model not in found and model in SINCE_1_2_1:
        pytest.skip("RecBole 1.2.0 does not have it")
    bench.write_data(tmp_path / "data")
    family = found[model]
    assert bench.run(model, family, tmp_path / "data", MAX_ITEM_LIST_LENGTH=5) == "runs"
    assert "Logging error" not in capsys.readouterr().err


def test_every_model_is_found_once(bench: Any) -> None:
    found = dict(bench.models())
    assert len(found) == len(list(bench.models())) == 94 - len(SINCE_1_2_1 - set(found))
    assert set(BAR) | {"NCL", "Pop", "LightGBM", "DIN", "xDeepFM"} < set(found)
    assert (found["FM"], found["S3Rec"], found["XGBoost"]) == (
        "context-aware",
        "sequential",
        "decision trees",
    )


def test_outcomes_of_models_that_do_not_run(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    bench.write_data(tmp_path / "data")
    data = tmp_path / "data"
    assert bench.run("NCL", "general", data) == "needs faiss-cpu"
    outcome = bench.run("S3Rec", "sequential", data, item_attribute="brand")
    assert outcome.startswith("refused: item_attribute (brand): 'brand' is token")
    assert (
        bench.in_a_process(lambda: str(1 / 0), 9)[0] == "fails: ZeroDivisionError: division by zero"
    )


def test_the_page_holds_a_row_per_model(bench: Any) -> None:
    rows = [bench.Outcome("A", "general", "runs", 1.25), bench.Outcome("B", "x", "needs y", 0.2)]
    lines = bench.page(rows).splitlines()
    assert lines[2].startswith("1 of RecBole's 2 models run")
    assert lines[-2:] == ["| A | general | runs | 1.2 |", "| B | x | needs y | 0.2 |"]


def test_the_page_in_results_is_that_of_its_file(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(bench, "N_USERS", 60)
    with (bench.RESULTS / "recbole_models.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    outcomes = [bench.Outcome(**{**row, "seconds": float(row["seconds"])}) for row in rows]
    found = dict(bench.models()).keys()
    assert {o.model for o in outcomes} == found | SINCE_1_2_1
    assert not [o for o in outcomes if o.outcome.startswith("fails")]
    text = (bench.RESULTS / "recbole-models.md").read_text(encoding="utf-8")
    assert text == bench.page(outcomes)
