"""Batches of requests."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, wait

import pytest
from exports import tiny_export
from served import WalkModel, items_of

from recbole_mscgrec.serving.batching import (
    Answer,
    Batcher,
    Model,
    Options,
    Query,
    QueueFull,
    Stopping,
)
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage.errors import UserError


def batcher_of(model: Model, **changes: float) -> Batcher:
    chosen = {"wait": 0.05, "max_batch": 8, "max_waiting": 100, **changes}
    return Batcher(model, Metrics(), **chosen)


def query(*last: str, top: int = 3, **changes: object) -> Query:
    """Histories of one item each."""
    return Query(tuple((item,) for item in last), Options(top=top), **changes)


def hold(batcher: Batcher, model: WalkModel) -> Future[Answer]:
    """A request that keeps the model busy until `model.go_on.set()`."""
    model.go_on.clear()
    future = batcher.submit(query("i0"))
    while not model.calls:
        time.sleep(0.001)
    return future


def test_requests_of_a_moment_share_one_call() -> None:
    model = WalkModel()
    batcher = batcher_of(model, wait=5.0, max_batch=3)
    begin = time.monotonic()
    futures = [batcher.submit(query(f"i{n}")) for n in (4, 9, 48)]
    answers = [future.result(5) for future in futures]
    assert time.monotonic() - begin < 4.0  # a full batch does not wait
    assert [items_of(a.lists[0]) for a in answers] == [
        ["i5", "i6", "i7"],
        ["i10", "i11", "i12"],
        ["i49", "i0", "i1"],
    ]
    assert [call["histories"] for call in model.calls] == [[["i4"], ["i9"], ["i48"]]]
    batcher.close()


def test_a_lone_request_waits_only_for_the_given_time() -> None:
    batcher = batcher_of(WalkModel(), wait=0.1)
    begin = time.monotonic()
    batcher.submit(query("i1")).result(5)
    assert 0.09 < time.monotonic() - begin < 3.0
    batcher.close()


def test_every_answer_of_a_mixed_load_is_that_of_the_request_alone() -> None:
    draw = random.Random(0)
    model, alone = WalkModel(), WalkModel()
    batcher = batcher_of(model, wait=0.005, max_batch=32)
    queries = []
    for _ in range(200):
        histories = tuple(
            tuple(draw.choices(alone.items, k=draw.randint(1, 4)))
            for _ in range(draw.choice((1, 1, 1, 2, 20)))
        )
        options = Options(top=draw.choice((1, 5)), exclude_seen=draw.random() < 0.3)
        filters: dict[str, tuple] = {}
        for name in ("exclude", "allowed_each"):
            if draw.random() < 0.2:
                filters[name] = tuple(tuple(draw.choices(alone.items, k=9)) for _ in histories)
        if "allowed_each" not in filters and draw.random() < 0.3:
            filters["allowed"] = draw.choice((tuple(alone.items[:20]), tuple(alone.items[10:])))
        queries.append(Query(histories, options, **filters))
    futures = [batcher.submit(q) for q in queries[:90]]
    wait(futures)
    futures += [batcher.submit(q) for q in queries[90:180]]
    wait(futures)
    futures += [batcher.submit(q) for q in queries[180:]]
    for asked, future in zip(queries, futures, strict=True):
        expected = alone.recommend(
            asked.histories,
            exclude=asked.exclude,
            allowed=asked.allowed_each or asked.allowed,
            **asked.options._asdict(),
        )
        assert future.result(5).lists == expected
    assert len(model.calls) < 120 and max(len(c["histories"]) for c in model.calls) == 32
    batcher.close()


def test_a_batch_of_the_real_model_answers_as_for_each_request_alone() -> None:
    recommender = Recommender(tiny_export())
    batcher = batcher_of(recommender, wait=0.05)
    draw = random.Random(1)
    queries = []
    for n in range(24):
        histories = tuple(
            tuple(draw.choices(recommender.items, k=draw.randint(1, 7))) for _ in range(1 + n % 2)
        )
        exclude = tuple(tuple(draw.choices(recommender.items, k=3)) for _ in histories)
        allowed = draw.choice((None, tuple(recommender.items[:15])))
        options = Options(top=draw.choice((3, 8)), exclude_seen=n % 3 == 0)
        queries.append(Query(histories, options, exclude if n % 2 else None, allowed))
    futures = [batcher.submit(q) for q in queries]
    for asked, future in zip(queries, futures, strict=True):
        expected = recommender.recommend(
            asked.histories,
            exclude=asked.exclude,
            allowed=asked.allowed,
            **asked.options._asdict(),
        )
        for ranked, known in zip(future.result(5).lists, expected, strict=True):
            assert items_of(ranked) == items_of(known)
            assert [r.code for r in ranked] == [r.code for r in known]
            assert [r.score for r in ranked] == pytest.approx([r.score for r in known], abs=1e-4)
    batcher.close()


@pytest.mark.parametrize(("bad", "error"), [("nobody", UserError), ("crash", ZeroDivisionError)])
def test_a_bad_request_fails_alone(bad: str, error: type[Exception]) -> None:
    model = WalkModel()
    batcher = batcher_of(model)
    tokens = ["i1", "i2", bad, "i4", "i5", "i6", "i7", "i8"]
    futures = [batcher.submit(query(token)) for token in tokens]
    for token, future in zip(tokens, futures, strict=True):
        if token == bad:
            with pytest.raises(error):
                future.result(5)
        else:
            assert items_of(future.result(5).lists[0])[0] == f"i{int(token[1:]) + 1}"
    assert len(model.calls) == 7  # 8, 4 + 4, 2 + 2, 1 + 1: not one call for each
    batcher.close()


def test_requests_that_differ_in_an_option_are_batched_with_their_like() -> None:
    model = WalkModel()
    batcher = batcher_of(model)
    held = hold(batcher, model)
    tops = [1, 2, 1, 2, 1, 2]
    futures = [batcher.submit(query(f"i{n}", top=top)) for n, top in enumerate(tops)]
    model.go_on.set()
    assert held.result(5)
    assert [len(f.result(5).lists[0]) for f in futures] == tops
    assert [call["histories"] for call in model.calls[1:]] == [
        [["i0"], ["i2"], ["i4"]],
        [["i1"], ["i3"], ["i5"]],
    ]
    batcher.close()


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    model = WalkModel()
    batcher = batcher_of(model, max_waiting=3)
    held = hold(batcher, model)
    waiting = [batcher.submit(query(f"i{n}")) for n in range(3)]
    assert len(batcher) == 3
    with pytest.raises(QueueFull):
        batcher.submit(query("i9"))
    model.go_on.set()
    assert [items_of(f.result(5).lists[0])[0] for f in (held, *waiting)] == ["i1", "i1", "i2", "i3"]
    assert len(batcher) == 0
    batcher.close()


def test_a_cancelled_request_is_not_computed_and_frees_its_place() -> None:
    model = WalkModel()
    batcher = batcher_of(model, max_waiting=1)
    held = hold(batcher, model)
    late = batcher.submit(query("i20"))
    assert late.cancel() and len(batcher) == 0
    after = batcher.submit(query("i30"))
    model.go_on.set()
    assert held.result(5) and items_of(after.result(5).lists[0])[0] == "i31"
    asked = [history for call in model.calls for history in call["histories"]]
    assert asked == [["i0"], ["i30"]]
    batcher.close()


def test_a_new_model_answers_from_the_next_batch_on() -> None:
    old, new = WalkModel(generation=1), WalkModel(n_items=60, generation=2)
    batcher = batcher_of(old)
    old.go_on.clear()
    before = batcher.submit(query("i49"))
    while not old.calls:
        time.sleep(0.001)
    after = batcher.submit(query("i49"))
    batcher.swap(new)
    old.go_on.set()
    assert before.result(5).model is old and items_of(before.result().lists[0])[0] == "i0"
    assert after.result(5).model is new and items_of(after.result().lists[0])[0] == "i50"
    assert len(old.calls) == len(new.calls) == 1 and batcher.model is new
    batcher.close()


def test_a_request_with_more_histories_than_a_batch_is_one_call() -> None:
    model = WalkModel()
    batcher = batcher_of(model, max_batch=2)
    held = hold(batcher, model)
    futures = [batcher.submit(query(*tokens)) for tokens in (["i1"], ["i2", "i3", "i4"], ["i5"])]
    model.go_on.set()
    held.result(5)
    assert [items_of(r)[0] for r in futures[1].result(5).lists] == ["i3", "i4", "i5"]
    assert futures[2].result(5)
    assert [len(call["histories"]) for call in model.calls] == [1, 1, 3, 1]
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    model = WalkModel(seconds=0.01)
    batcher = batcher_of(model, wait=5.0, max_batch=2)
    futures = [batcher.submit(query(f"i{n}")) for n in range(7)]
    batcher.close()
    assert [items_of(f.result(0).lists[0])[0] for f in futures] == [f"i{n + 1}" for n in range(7)]
    with pytest.raises(Stopping):
        batcher.submit(query("i1"))


def test_lists_that_do_not_fit_the_histories_are_given_to_nobody() -> None:
    model = WalkModel()
    model.recommend = lambda histories, **_: []  # type: ignore[method-assign]
    batcher = batcher_of(model)
    with pytest.raises(RuntimeError, match="0 lists for 1 histories"):
        batcher.submit(query("i1")).result(5)
    batcher.close()
