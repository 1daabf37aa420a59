"""Recommendations as rows, tables and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from exports import tiny_export

from recbole_mscgrec.deployment import answers
from recbole_mscgrec.deployment.answers import Answer
from recbole_mscgrec.deployment.asked import Asked
from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.serving.recommender import Recommendation, Recommender


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel(Recommender(tiny_export()))


@pytest.fixture(scope="module")
def answer(model: TrainedModel) -> Answer:
    codes = {item: model.recommender.code_of(item) for item in ("a3", "a9")}
    items = [Recommendation("a3", -1.25, codes["a3"]), Recommendation("a9", -2.5, codes["a9"])]
    return Answer(Asked("anna", ["a3", "a3"]), items)


def test_a_row_per_recommendation(model: TrainedModel, answer: Answer) -> None:
    first, second = answers.rows_of(answer, model, explain=True)
    code = ".".join(map(str, answer.items[0].code))
    assert first == {
        "user": "anna",
        "rank": 1,
        "item": "a3",
        "title": "Title 3",
        "score": -1.25,
        "code": code,
        "shared_levels": "a3:3",
    }
    assert second["rank"] == 2 and second["score"] == -2.5


def test_the_columns_of_a_table_are_aligned(model: TrainedModel, answer: Answer) -> None:
    lines = answers.table(answer, model, explain=False).splitlines()
    assert lines[0].split() == ["rank", "item", "title", "score", "code"]
    assert [line.index("-") for line in lines[1:]] == [lines[0].index("score")] * 2
    explained = answers.table(answer, model, explain=True).splitlines()
    assert explained[2] == "      shares 3 of 3 levels with a3 Title 3"


def test_long_titles_are_cut_only_on_the_screen(answer: Answer) -> None:
    long = TrainedModel(Recommender(tiny_export(titles=["x" * 60] * 24)))
    assert "x" * 47 + "..." in answers.table(answer, long, explain=False)
    assert answers.rows_of(answer, long, explain=False)[0]["title"] == "x" * 60


def test_the_three_formats_hold_the_same(
    model: TrainedModel, answer: Answer, tmp_path: Path
) -> None:
    rows = answers.rows_of(answer, model, explain=False)
    for suffix in (".csv", ".jsonl", ".parquet"):
        answers.write(tmp_path / f"out{suffix}", rows, explain=False)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in r.items()} for r in rows]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == rows
