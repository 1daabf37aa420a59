"""The data of the page, and what it does with titles that look like HTML."""

from __future__ import annotations

from pathlib import Path

from exports import N, tiny_export

from recbole_mscgrec.deployment.answers import Answer
from recbole_mscgrec.deployment.asked import Asked
from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.deployment.page import page_data, write_page
from recbole_mscgrec.serving.recommender import Recommender

EVIL = "<script>alert(1)</script>"


def answered(model: TrainedModel, history: list[str]) -> list[Answer]:
    return [Answer(Asked("anna", history), model.recommender.recommend([history], top=2)[0])]


def test_the_last_items_come_first_and_long_histories_are_cut() -> None:
    model = TrainedModel(Recommender(tiny_export()))
    history = [f"a{i % N}" for i in range(30)]
    page = page_data(answered(model, history), model)
    (answer,) = page["answers"]
    assert answer["n_history"] == 30 and len(answer["history"]) == 24
    assert [card["token"] for card in answer["history"]] == history[:5:-1]
    assert page["n_items"] == N and page["max_history"] == 5
    best = model.recommender.recommend([history], top=2)[0][0]
    first = answer["recommended"][0]
    assert first["token"] == best.item and first["score"] == best.score
    shared = model.recommender.explain(history, best.item)[:2]
    assert [(s["token"], s["n_levels"]) for s in first["shared"]] == [
        (each.item, each.n_levels) for each in shared
    ]


def test_titles_are_escaped(tmp_path: Path) -> None:
    model = TrainedModel(Recommender(tiny_export(titles=[EVIL] * N)))
    write_page(tmp_path / "page.html", answered(model, ["a1", "a2"]), model)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
