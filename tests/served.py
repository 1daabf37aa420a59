"""A model with known answers, and the HTTP service around it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from recbole_mscgrec.serving import server
from recbole_mscgrec.serving.batching import Batcher
from recbole_mscgrec.serving.bodies import Limits
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.service import Service
from recbole_mscgrec.storage.errors import UserError


class Next(NamedTuple):
    """What a Recommender's Recommendation has."""

    item: str
    score: float
    code: tuple[int, ...]


class WalkModel:
    """Recommends the items that follow the last one of the history: i7 -> i8, i9, ... modulo n.

    Has the interface of a Recommender and notes its calls.
    """

    def __init__(self, n_items: int = 50, generation: int = 0, seconds: float = 0.0) -> None:
        self.items = [f"i{n}" for n in range(n_items)]
        self.titles: list[str] | None = [f"Title of i{n}" for n in range(n_items)]
        self.generation, self.seconds = generation, seconds
        self.calls: list[dict[str, Any]] = []
        self.alone = threading.Lock()
        self.go_on = threading.Event()  # clear it to hold the model in its next call
        self.go_on.set()

    def title_of(self, item: str) -> str | None:
        if item not in self.items:
            raise UserError(f"item {item!r} is unknown.")
        return self.titles[self.items.index(item)] if self.titles else None

    def recommend(
        self, histories: Sequence[Sequence[str]], top: int = 10, **options: Any
    ) -> list[list[Next]]:
        assert self.alone.acquire(blocking=False), "two calls at once"
        try:
            self.calls.append({"histories": [list(h) for h in histories], "top": top, **options})
            self.go_on.wait(10)
            time.sleep(self.seconds)
            nothing = [None] * len(histories)
            exclude, allowed = options.get("exclude") or nothing, options.get("allowed")
            if allowed is None or not all(isinstance(row, tuple) for row in allowed) or not allowed:
                allowed = [allowed] * len(histories)  # one for all
            rows = zip(histories, exclude, allowed, strict=True)
            seen = bool(options.get("exclude_seen"))
            return [self._walk(list(h), top, e, a, seen) for h, e, a in rows]
        finally:
            self.alone.release()

    def _walk(
        self,
        history: list[str],
        top: int,
        exclude: Sequence[str] | None,
        allowed: Sequence[str] | None,
        exclude_seen: bool,
    ) -> list[Next]:
        for token in history:
            if token == "crash":
                raise ZeroDivisionError("a bug")
            if token not in self.items:
                raise UserError(f"item {token!r} is unknown.")
        if not history:
            raise UserError("the history is empty.")
        if allowed is not None and not allowed:
            raise UserError("nothing is allowed.")
        n_items = len(self.items)
        last = int(history[-1][1:])
        walk = [(last + step) % n_items for step in range(1, n_items + 1)]
        refused = {*(exclude or ()), *(history if exclude_seen else ())}
        kept = [n for n in walk if f"i{n}" not in refused]
        kept = [n for n in kept if allowed is None or f"i{n}" in allowed]
        made = [Next(f"i{n}", -float(rank), (n, 0)) for rank, n in enumerate(kept)]
        return made[:top]


class Reply(NamedTuple):
    """An answer of the service."""

    status: int
    content: Any
    headers: dict[str, str]


class Running(NamedTuple):
    """A service that listens on a free port."""

    service: Service
    server: server.Running
    port: int

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Reply:
        """One request on a connection of its own; `body` is bytes, or is sent as JSON."""
        return ask(self.port, path, body, method)


def ask(port: int, path: str, body: Any = None, method: str | None = None) -> Reply:
    """One request to a port of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, content)
        response = connection.getresponse()
        text = response.read().decode()
        is_json = response.headers.get_content_type() == "application/json"
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, json.loads(text) if is_json else text, headers)
    finally:
        connection.close()


@contextmanager
def running(
    model: Any,
    limits: Limits | None = None,
    timeout: float = 10.0,
    wait: float = 0.002,
    max_batch: int = 8,
    max_waiting: int = 100,
) -> Iterator[Running]:
    """The service around a model, in threads of this process."""
    metrics = Metrics()
    batcher = Batcher(model, metrics, wait=wait, max_batch=max_batch, max_waiting=max_waiting)
    service = Service(batcher, metrics, limits or Limits(), timeout)
    with server.listener("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        started = server.Running(service, bound)
        try:
            yield Running(service, started, port)
        finally:
            started.stop()


def items_of(ranked: Sequence[Any]) -> list[str]:
    """The items of a list of a model, or of one in an answer."""
    return [r["item"] if isinstance(r, dict) else r.item for r in ranked]
