"""The HTTP service, over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import Running, WalkModel, items_of, running

import recbole_mscgrec
from recbole_mscgrec.serving.queries import Limits


@pytest.fixture(scope="module")
def walk() -> Iterator[Running]:
    """A service with small limits; nothing in it is changed by a test."""
    limits = Limits(max_body=2000, max_histories=4, max_length=10, max_top=20)
    with running(WalkModel(generation=3), limits) as made:
        yield made


def test_recommendations(walk: Running) -> None:
    asked = {"histories": [["i7"], ["i1", "i48"]], "top": 2}
    reply = walk.ask("/recommend", asked)
    assert reply.status == 200 and reply.content == {
        "recommendations": [
            [
                {"item": "i8", "title": "Title of i8", "score": 0.0, "code": [8, 0]},
                {"item": "i9", "title": "Title of i9", "score": -1.0, "code": [9, 0]},
            ],
            [
                {"item": "i49", "title": "Title of i49", "score": 0.0, "code": [49, 0]},
                {"item": "i0", "title": "Title of i0", "score": -1.0, "code": [0, 0]},
            ],
        ],
        "generation": 3,
    }


def test_filters(walk: Running) -> None:
    asked = {"histories": [["i5", "i3"], ["i8"]], "top": 2}
    for filters, expected in (
        ({"exclude": ["i4", "i9"]}, [["i5", "i6"], ["i10", "i11"]]),
        ({"exclude": [["i4"], []]}, [["i5", "i6"], ["i9", "i10"]]),
        ({"allowed": ["i1", "i20"]}, [["i20", "i1"], ["i20", "i1"]]),
        ({"exclude_seen": True}, [["i4", "i6"], ["i9", "i10"]]),
    ):
        lists = walk.ask("/recommend", {**asked, **filters}).content["recommendations"]
        assert [items_of(ranked) for ranked in lists] == expected


def test_models_without_titles() -> None:
    model = WalkModel()
    model.titles = None
    with running(model) as made:
        reply = made.ask("/recommend", {"histories": [["i7"]], "top": 1})
    assert reply.content["recommendations"][0][0]["title"] is None


def test_health(walk: Running) -> None:
    state = {"status": "ok", "items": 50, "generation": 3}
    reply = walk.ask("/health")
    assert (reply.status, reply.content) == (200, {**state, "version": recbole_mscgrec.__version__})


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"histories": [["nobody"]]}, "item 'nobody' is unknown."),
        ({"histories": [["\ud800"]]}, "item '\\ud800' is unknown."),
        ({"histories": [["i1"], []]}, "the history is empty."),
        ({"histories": [["i1"]], "allowed": []}, "nothing is allowed."),
        ({"histories": [["i1"]], "top": 21}, "top: must be a whole number from 1 to 20, not 21."),
        ({"histories": [["i1"]] * 5}, "histories: 5 are too many for one request; at most 4"),
        ({"histories": [["i1"] * 11]}, "histories[0]: 11 items are too many; at most 10"),
        ([], "body: must be an object"),
        (b"no json", "body: not JSON"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    walk: Running, asked: object, error: str
) -> None:
    reply = walk.ask("/recommend", asked)
    assert reply.status == 422 and reply.content["error"].startswith(error)
    assert set(reply.content) == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/health/", 404),
        ("GET", "/docs", 404),
    ],
)
def test_unknown_paths_and_methods(walk: Running, method: str, path: str, status: int) -> None:
    reply = walk.ask(path, method=method)
    assert reply.status == status and "/recommend, /health, /metrics" in reply.content["error"]
    counted = f'mscgrec_requests_total{{path="other",status="{status}"}} '
    assert counted in walk.ask("/metrics").content


def test_a_bug_is_no_traceback(walk: Running, caplog: pytest.LogCaptureFixture) -> None:
    reply = walk.ask("/recommend", {"histories": [["crash"]]})
    assert reply.status == 500
    assert reply.content == {"error": "internal error; the log of the service says more."}
    assert "ZeroDivisionError: a bug" in caplog.text
    assert walk.ask("/recommend", {"histories": [["i1"]]}).status == 200


# --- the body -------------------------------------------------------------------------------------


def test_a_body_of_the_largest_size_is_read(walk: Running) -> None:
    asked = json.dumps({"histories": [["i1"]], "top": 1}).encode()
    assert walk.ask("/recommend", asked + b" " * (2000 - len(asked))).status == 200
    reply = walk.ask("/recommend", asked + b" " * (2001 - len(asked)))
    assert reply.status == 413
    assert reply.content == {"error": "body: more than 2,000 bytes (--max_body)."}


@pytest.mark.parametrize("size", [3_000, 1_000_000])
def test_a_body_without_a_length_is_counted(walk: Running, size: int) -> None:
    """The answer may come before the end of the body."""
    with socket.create_connection(("127.0.0.1", walk.port), timeout=10) as stream:
        head = "POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        stream.sendall(head.encode())
        for _ in range(size // 1000):
            try:
                stream.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            except OSError:  # refused early
                break
            stream.settimeout(0.001)
            try:
                received = stream.recv(1000)
                break
            except TimeoutError:
                stream.settimeout(10)
        else:
            stream.sendall(b"0\r\n\r\n")
            received = stream.recv(1000)
    assert received.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    with running(WalkModel(), timeout=0.2) as made:
        with socket.create_connection(("127.0.0.1", made.port), timeout=10) as stream:
            head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
            stream.sendall(head.encode())
            answer = stream.makefile("rb").read()  # to the end: the service closes the connection
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.2 seconds" in answer


def test_a_client_that_leaves_disturbs_nobody(walk: Running) -> None:
    for body in (b"{", b""):
        with socket.create_connection(("127.0.0.1", walk.port)) as stream:
            head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
            stream.sendall(head + body)
    assert walk.ask("/recommend", {"histories": [["i1"]]}).status == 200


# --- load -----------------------------------------------------------------------------------------


def test_a_slow_answer_is_status_504_and_the_late_request_is_not_computed() -> None:
    model = WalkModel()
    with running(model, timeout=0.6) as made, ThreadPoolExecutor(2) as pool:
        model.go_on.clear()
        first = pool.submit(made.ask, "/recommend", {"histories": [["i1"]]})
        while not model.calls:
            time.sleep(0.001)
        second = pool.submit(made.ask, "/recommend", {"histories": [["i2"]]})
        for reply in (first.result(), second.result()):
            assert reply.status == 504
            assert reply.content == {"error": "no answer within 0.6 seconds (--timeout)."}
        model.go_on.set()
        assert made.ask("/recommend", {"histories": [["i3"]]}).status == 200
    assert [call["histories"] for call in model.calls] == [[["i1"]], [["i3"]]]


def test_large_requests_that_wait_are_bounded_together() -> None:
    """64 bodies of the largest size are in work; one more is refused, large or small."""
    model = WalkModel()
    body = json.dumps({"histories": [["i1"]], "top": 1}).encode()
    with running(model, Limits(max_body=len(body))) as made, ThreadPoolExecutor(64) as pool:
        model.go_on.clear()
        asked = [pool.submit(made.ask, "/recommend", body) for _ in range(64)]
        limit = time.monotonic() + 8
        while time.monotonic() < limit:
            in_model = sum(len(call["histories"]) for call in model.calls)
            if len(made.service.batcher) + in_model == 64:
                break
            time.sleep(0.01)
        refused = made.ask("/recommend", body)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        model.go_on.set()
        assert {reply.result().status for reply in asked} == {200}
        assert made.ask("/recommend", body).status == 200


def test_overload_is_status_503_and_every_accepted_request_is_answered_right() -> None:
    model = WalkModel(seconds=0.01)
    counts: Counter[int] = Counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=20)
        for step in range(8):
            n = (number * 8 + step) % 49
            asked = {"histories": [[f"i{n}"]], "top": 1}
            connection.request("POST", "/recommend", json.dumps(asked))
            response = connection.getresponse()
            content = json.loads(response.read())
            counts[response.status] += 1
            if response.status == 200:
                (ranked,) = content["recommendations"]
                assert items_of(ranked) == [f"i{n + 1}"]
            else:
                assert response.status == 503 and response.headers["Retry-After"] == "1"
                assert "too many requests are waiting" in content["error"]
        connection.close()

    with running(model, max_batch=2, max_waiting=3) as made:
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(client, range(24)))
        text = made.ask("/metrics").content
    assert sum(counts.values()) == 24 * 8 and counts[200] > 8 and counts[503] > 8
    for status, count in counts.items():
        line = f'mscgrec_requests_total{{path="/recommend",status="{status}"}} {count}\n'
        assert line in text
    assert f"mscgrec_request_seconds_count {24 * 8}\n" in text
    assert f"mscgrec_batch_histories_sum {float(counts[200])}\n" in text
    assert "mscgrec_queue_length 0\n" in text and "mscgrec_items 50\n" in text


def test_stopping_refuses_new_requests_and_answers_those_in_work() -> None:
    model = WalkModel()
    with running(model) as made, ThreadPoolExecutor(2) as pool:
        keep = http.client.HTTPConnection("127.0.0.1", made.port, timeout=10)
        model.go_on.clear()
        in_work = pool.submit(made.ask, "/recommend", {"histories": [["i1"]], "top": 1})
        while not model.calls:
            time.sleep(0.001)
        made.service.stopping = True  # what stop() does first
        for path, body in (("/health", None), ("/recommend", b"{}")):
            keep.request("POST" if body else "GET", path, body)
            response = keep.getresponse()
            assert response.status == 503 and b"stopping" in response.read()
        stop = threading.Thread(target=made.server.stop)
        stop.start()
        time.sleep(0.2)
        assert stop.is_alive()  # it waits for the request in work
        model.go_on.set()
        assert items_of(in_work.result().content["recommendations"][0]) == ["i2"]
        stop.join(10)
        assert not stop.is_alive()
        with pytest.raises(ConnectionError):
            made.ask("/health")
        keep.close()
