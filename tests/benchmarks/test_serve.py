"""The load test's own arithmetic, and a short load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from served import Next, WalkModel, running

from recbole_mscgrec.serving.recommender import Recommender


@pytest.fixture
def serve(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("serve")


KNOWN = [Next("a", -1.0, (0,)), Next("b", -2.0, (1,)), Next("c", -2.0001, (2,))]


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ([("a", -1.0), ("b", -2.0), ("c", -2.0001)], True),
        ([("a", -1.0), ("c", -2.0), ("b", -2.0001)], True),  # a tie
        ([("a", -1.0), ("b", -2.0), ("x", -2.0001)], True),  # a tie with one beyond the end
        ([("a", -1.0), ("b", -2.0)], False),
        ([("b", -2.0), ("a", -1.0), ("c", -2.0001)], False),
        ([("b", -1.0), ("a", -2.0), ("c", -2.0001)], False),
        ([("x", -1.0), ("b", -2.0), ("c", -2.0001)], False),
        ([("a", -1.0), ("b", -2.0), ("b", -2.0001)], False),
        ([("a", -1.5), ("b", -2.0), ("c", -2.0001)], False),
    ],
)
def test_a_list_is_right_up_to_ties(
    serve: ModuleType, given: list[tuple[str, float]], right: bool
) -> None:
    ranked = [{"item": item, "score": score} for item, score in given]
    assert serve.is_right(ranked, KNOWN) is right


def test_a_summary_counts_every_reply(serve: ModuleType) -> None:
    good = [{"item": r.item, "score": r.score} for r in KNOWN]
    body, bad = (json.dumps({"recommendations": [lst]}).encode() for lst in (good, good[:2]))
    replies = [serve.Reply(0, 200, n / 1000, body) for n in range(1, 101)]
    replies += [serve.Reply(0, 200, 0.2, bad), serve.Reply(0, 503, 0.1, b"")]
    replies += [serve.Reply(0, 0, 0.1, b""), serve.Reply(0, 500, 0.1, b"")]
    assert serve.summary(replies, [KNOWN], 2.0) == {
        "requests": 104,
        "requests_per_s": 50.5,
        "p50_ms": 51.0,
        "p99_ms": 100.0,
        "status_503": 1,
        "wrong": 1,
        "lost": 2,
    }


def test_a_short_load(serve: ModuleType) -> None:
    model = WalkModel(seconds=0.01)
    known = [model.recommend([[item]], top=10)[0] for item in model.items]
    bodies = [serve.body_of([item]) for item in model.items]
    with running(model, max_waiting=2, max_batch=2) as made:
        row = serve.summary(serve.load(made.port, bodies, 8, 0.3), known, 0.3)
        wrong = serve.summary(serve.load(made.port, bodies, 1, 0.2), known[1:] + known[:1], 0.2)
    assert row["requests"] >= 8 and row["status_503"] > 0 and row["wrong"] == row["lost"] == 0
    assert wrong["wrong"] == wrong["requests"] > 0
    table = serve.markdown([{"items": 50, "clients": "8", "cpu_ms": 0.5, **row}]).splitlines()
    assert table[0].startswith(
        "| items | clients | requests | requests/s | cpu ms | p50 ms | p99 ms |"
    )
    assert table[2].endswith("| 0 | 0 |")


def test_the_export_has_the_size_and_answers_with_different_scores(
    serve: ModuleType, tmp_path: Path
) -> None:
    serve.write_export(tmp_path, 300)
    recommender = Recommender.load(tmp_path)
    assert len(recommender.items) == 300
    first, second = recommender.recommend([["item-3"] * 5, ["item-7"] * 5], top=10)
    assert first[0].score - first[9].score > serve.NEAR < abs(first[0].score - second[0].score)
