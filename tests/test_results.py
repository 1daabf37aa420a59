"""The pages of results/ hold what its CSV files and ranks of users say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import collect
import numpy as np
import pytest
import runs
import tables

from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.storage.files import read_csv

RESULTS = Path(__file__).resolve().parent.parent / "results"
PAGES = tables.PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(RESULTS.parent)))
def test_pages_hold_the_tables_of_the_csv(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.render(text) == text, "python results/tables.py writes the tables anew"


def test_every_table_stands_on_a_page() -> None:
    marks = re.findall(r"<!-- table: (.+?) -->", "".join(p.read_text("utf-8") for p in PAGES))
    assert sorted(marks) == sorted(tables.TABLES)


def test_significance_follows_from_the_ranks() -> None:
    names = ("ml-100k", runs.RANKED, "MSCGRec", runs.DROPOUT_5)
    kept = [r for r in runs.read("significance.csv") if tuple(r.values())[:4] == names]
    assert sorted(kept, key=lambda r: r["metric"]) == runs.compare(*names)


def test_ranks_give_the_metrics_of_the_csv() -> None:
    found = [run for run in runs.read("runs.csv") if run["ranks"]]
    assert {run["table"] for run in found} == {
        "ml-100k",
        "amazon-scientific",
        "amazon-office",
        "weak text amazon-office",
        "weak text amazon-scientific",
        "ml-1m-times",
        "ml-1m length 200",
        "components ml-100k",
        "components ml-100k network",
        "encoder ml-1m-times",
        runs.ON_GPU,
    }
    stored = {file.name for file in (RESULTS / "ranks").glob("*.npz")}
    assert stored == {run["ranks"] for run in found}
    for run in found:
        ranks = runs.read_ranks(run["ranks"], run["dataset"])
        for name in ("ndcg@10", "recall@20"):
            assert ranks.metric(name).mean() == pytest.approx(float(run[f"test {name}"]), abs=1e-6)


def test_no_csv_or_page_names_a_folder_of_a_machine() -> None:
    for file in [*RESULTS.glob("*.csv"), *PAGES]:
        assert not re.findall(r"(?:/root|/home|/tmp|[A-Z]:\\)\S*", file.read_text("utf-8"))


@pytest.mark.parametrize("given", [None, "abc"])
def test_a_collected_run_names_the_commit_that_made_it(tmp_path: Path, given: str | None) -> None:
    result = {"model": "MSCGRec", "dataset": "small", "seed": 1, "best_valid_result": {}}
    result |= {"test_result": {}, "seconds": {}}
    file = tmp_path / "a-row_1.json"
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="does not say what made it: give .*--version"):
        collect.collect([file], tmp_path, "a table", None, given)
    file.write_text(json.dumps(result | {"made_by": {"commit": "def", "version": "0.2"}}))
    (run,) = collect.collect([file], tmp_path, "a table", None, given)
    assert (run["commit"], run["version"]) == (given or "def", "0.2")


def test_a_collected_run_replaces_that_of_the_same_key(tmp_path: Path) -> None:
    metrics = {"recall@10": 0.5, "ndcg@10": 0.4}
    result = {"model": "MSCGRec", "dataset": "small", "seed": 1, "best_valid_result": metrics}
    result |= {"test_result": metrics, "seconds": {"train": 1.5}, "peak_memory_mb": 9.0}
    result |= {"settings": {"exclude_seen": "all", "image_dir": "/home/me/images", "seed": 1}}
    file = tmp_path / "a-row_1.json"
    file.write_text(json.dumps(result))
    file.with_suffix(".log").write_text("epoch 3 training [\nbest eval result in epoch 2\n")
    users = np.array(["10", "2", "7"])
    user_ranks.save(file.with_suffix(".npz"), user_ranks.Ranks(users, np.array([3, 0, 1]), 20))
    for _ in range(2):
        collect.collect([file], tmp_path, "a table", None, "abc", "0.2")
    (run,) = read_csv(tmp_path / "runs.csv")
    assert (run["row"], run["protocol"], run["seconds train"]) == ("a-row", "seen excluded", "1.5")
    assert json.loads(run["settings"]) == {"image_dir": "images"}
    assert (run["epochs_trained"], run["best_epoch"]) == ("4", "3")
    with np.load(tmp_path / "ranks" / run["ranks"]) as stored:
        assert stored["ranks"].dtype == np.uint16 and stored["ranks"].tolist() == [3, 0, 1]
