"""Which download may begin when: times are given, nothing waits."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from recbole_mscgrec.item_content.http_get import NotFetched
from recbole_mscgrec.item_content.schedule import Schedule, Task

BUSY = NotFetched("HTTP 503", lasting=False)


def schedule(**changes: float) -> Schedule:
    values = dict(per_host=2, pause=0.0, retries=2, backoff=1.0, longest_wait=100.0)
    return Schedule(**{**values, **changes})


def added(plan: Schedule, n: int, host: str = "a") -> list[Task]:
    tasks = [Task(f"{host}{i}", "url", "url", host) for i in range(n)]
    for task in tasks:
        plan.add(task)
    return tasks


def names(plan: Schedule, now: float) -> list[str]:
    found = []
    while task := plan.take(now):
        found.append(task.item)
    return found


def test_a_host_gets_as_many_connections_as_it_may() -> None:
    plan = schedule()
    first, *_ = added(plan, 4, "a")
    added(plan, 1, "b")
    assert names(plan, 0.0) == ["a0", "b0", "a1"] and plan.seconds_to_next(0.0) is None
    plan.finished(first)
    assert names(plan, 0.0) == ["a2"] and plan.left == 4


def test_requests_to_a_host_keep_their_distance() -> None:
    plan = schedule(per_host=9, pause=0.5)
    added(plan, 3, "a")
    added(plan, 1, "b")
    assert names(plan, 0.0) == ["a0", "b0"]
    assert plan.seconds_to_next(0.2) == pytest.approx(0.3)
    assert names(plan, 0.4) == [] and names(plan, 0.5) == ["a1"] and names(plan, 1.0) == ["a2"]


def test_tries_come_later_and_later_and_end() -> None:
    waits = []
    for seed in range(200):
        random.seed(seed)
        plan = schedule()
        (task,) = added(plan, 1)
        now = 0.0
        for n in (1, 2):
            assert plan.take(now) is task and task.tries == n
            assert plan.failed(task, BUSY, now) and plan.left == 1
            wait = plan.seconds_to_next(now)
            waits.append((n, wait))
            assert plan.take(now + wait - 0.01) is None
            now += wait
        assert plan.take(now) is task
        assert not plan.failed(task, BUSY, now) and plan.left == 0
    for n, middle in ((1, 1.0), (2, 2.0)):
        of_n = [wait for number, wait in waits if number == n]
        assert 0.5 * middle <= min(of_n) < 0.7 * middle and 1.3 * middle < max(of_n) <= 1.5 * middle


def test_a_lasting_failure_is_tried_once() -> None:
    plan = schedule()
    (task,) = added(plan, 1)
    plan.take(0.0)
    assert not plan.failed(task, NotFetched("HTTP 404", lasting=True), 0.0) and plan.left == 0


def test_a_pause_that_the_server_asks_for_holds_for_the_whole_host() -> None:
    plan = schedule()
    first, *_ = added(plan, 2)
    added(plan, 1, "b")
    assert plan.take(0.0) is first
    assert plan.failed(first, NotFetched("HTTP 429", lasting=False, wait=50.0), 0.0)
    assert names(plan, 0.0) == ["b0"] and names(plan, 49.9) == []
    assert names(plan, 50.0) == ["a1", "a0"]


def test_a_host_that_asks_for_too_long_a_pause_is_left_alone() -> None:
    plan = schedule(per_host=1, pause=5.0)
    first, *rest = added(plan, 4)
    plan.take(0.0)
    assert not plan.failed(first, NotFetched("HTTP 429", lasting=False, wait=101.0), 0.0)
    for task in rest:  # all at once, without a pause
        assert plan.take(0.0) is task and "longest_wait" in plan.reason_to_skip(task)
        plan.finished(task)
        assert task.tries == 0
    assert plan.left == 0 and plan.take(9e9) is None


def test_a_host_whose_connections_fail_again_and_again_is_left_alone() -> None:
    gone = NotFetched("host name not found", lasting=False, answered=False)
    plan = schedule(per_host=1, retries=0)
    tasks = added(plan, 60)
    for n, task in enumerate(tasks[:30]):
        assert plan.take(0.0) is task and not plan.reason_to_skip(task)
        plan.failed(task, BUSY if n == 9 else gone, 0.0)  # one answer in between
    assert plan.take(0.0) is tasks[30]
    assert plan.reason_to_skip(tasks[30]) == "host name not found, 20 times in a row"


def test_a_redirect_waits_for_its_new_host_and_is_no_try() -> None:
    plan = schedule(per_host=1)
    (task,), (other,) = added(plan, 1, "a"), added(plan, 1, "b")
    assert names(plan, 0.0) == ["a0", "b0"]
    plan.moved(task, "new", "b")
    assert plan.take(0.0) is None  # b has its one connection
    plan.finished(other)
    assert plan.take(0.0) is task
    assert (task.url, task.source, task.tries, task.redirects) == ("new", "url", 1, 1)
    plan.finished(task)
    assert plan.left == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_task_ends_once_and_limits_hold_whatever_happens(seed: int) -> None:
    draw = random.Random(seed)
    n_skipped = 0
    plan = schedule(per_host=3, pause=0.01, retries=3, longest_wait=5.0)
    for i in range(300):
        plan.add(Task(f"i{i}", "u", "u", f"h{draw.randrange(5)}"))
    running: list[Task] = []
    ended: Counter[str] = Counter()
    now = 0.0
    while plan.left:
        while len(running) < 8 and (task := plan.take(now)):
            if plan.reason_to_skip(task):
                plan.finished(task)
                ended[task.item] += 1
                n_skipped += 1
                continue
            running.append(task)
            active = Counter(t.host for t in running)
            assert max(active.values()) <= 3
        if running:
            task = running.pop(draw.randrange(len(running)))
            what = draw.random()
            if what < 0.2:
                plan.moved(task, "v", f"h{draw.randrange(5)}")
            elif what < 0.5:
                wait = draw.choice([None, 0.0, 2.0, 9.0 if draw.random() < 0.05 else None])
                why = NotFetched("x", draw.random() < 0.2, wait, draw.random() < 0.7)
                ended[task.item] += not plan.failed(task, why, now)
            else:
                plan.finished(task)
                ended[task.item] += 1
        now += 0.005 if running else plan.seconds_to_next(now) or 0.0
        assert now < 1000
    assert ended == Counter({f"i{i}": 1 for i in range(300)}) and not running
    assert n_skipped < 300
