"""The HTTP service: POST /recommend, GET /health, GET /metrics.

This module needs the extra packages of `recbole-mscgrec[serve]`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recbole_mscgrec import __version__
from recbole_mscgrec.serving.batching import Answer, Batcher, QueueFull, Stopping
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.queries import Limits, parse
from recbole_mscgrec.storage.errors import UserError

_PATHS = ("/recommend", "/health", "/metrics")
_DRAINED = 8  # times the largest body are read and dropped, so that the client sees the answer
_MOST_BODIES = 64  # times the largest body: what all requests in work may take together
_BUSY = {"Retry-After": "1"}


class Service:
    """The application around a batcher: `app` is what an ASGI server runs.

    Args:
        limits: the largest request that is accepted.
        timeout: seconds from the arrival of a request to its answer, and for its body to arrive.
    """

    def __init__(self, batcher: Batcher, metrics: Metrics, limits: Limits, timeout: float) -> None:
        self.batcher, self.metrics = batcher, metrics
        self.limits, self.timeout = limits, timeout
        self.stopping = False
        self._bytes = 0  # of the bodies of requests in work
        # No pages of documentation: theirs load scripts from another host.
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        self.app.add_exception_handler(HTTPException, self._unknown)
        self.app.post("/recommend")(self._counted(self.recommend))
        self.app.get("/health")(self._counted(self.health))
        self.app.get("/metrics")(self._counted(self.show_metrics))

    async def recommend(self, request: Request) -> Response:
        """Answer a query, or say in one line why not."""
        begin = time.monotonic()
        try:
            body = await asyncio.wait_for(self._body(request), self.timeout)
        except asyncio.TimeoutError:
            text = f"body: it did not arrive within {self.timeout:g} seconds (--timeout)."
            return _error(408, text, {"Connection": "close"})
        except ClientDisconnect:
            return _error(400, "body: the client left before its end.")
        if len(body) > self.limits.max_body:
            text = f"body: more than {self.limits.max_body:,} bytes (--max_body)."
            return _error(413, text, {"Connection": "close"})
        if self._bytes + len(body) > _MOST_BODIES * self.limits.max_body:
            return _error(503, "too many large requests are waiting; try again.", _BUSY)
        self._bytes += len(body)
        try:
            if self.stopping:  # told only now: a client that is still sending may miss an answer
                raise Stopping
            query = parse(body, self.limits)
            future = asyncio.wrap_future(self.batcher.submit(query))
            left = max(self.timeout - (time.monotonic() - begin), 0.0)
            return _json(200, _content(await asyncio.wait_for(future, left)))
        except UserError as error:
            return _error(422, str(error))
        except QueueFull:
            return _error(503, "too many requests are waiting (--queue); try again.", _BUSY)
        except Stopping:
            return _error(503, "the service is stopping.", {**_BUSY, "Connection": "close"})
        except asyncio.TimeoutError:
            return _error(504, f"no answer within {self.timeout:g} seconds (--timeout).")
        finally:
            self._bytes -= len(body)

    async def health(self, request: Request) -> Response:
        """200 while requests are taken, 503 once the service is stopping."""
        model = self.batcher.model
        state = {
            "status": "stopping" if self.stopping else "ok",
            "items": len(model.items),
            "generation": model.generation,
            "version": __version__,
        }
        return _json(503 if self.stopping else 200, state)

    async def show_metrics(self, request: Request) -> Response:
        """All counters in the text format of Prometheus."""
        model = self.batcher.model
        text = self.metrics.text(
            queue_length=len(self.batcher), generation=model.generation, items=len(model.items)
        )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _counted(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler, whose answers are counted; an error of ours is logged and answered."""

        async def handler(request: Request) -> Response:
            begin = time.monotonic()
            try:
                response = await answer(request)
            except Exception:
                getLogger().exception(f"{request.url.path} failed")
                response = _error(500, "internal error; the log of the service says more.")
            seconds = time.monotonic() - begin if request.url.path == "/recommend" else None
            self.metrics.request(request.url.path, response.status_code, seconds)
            return response

        return handler

    async def _unknown(self, request: Request, error: Exception) -> Response:
        """Answer a path or method that there is not."""
        assert isinstance(error, HTTPException)
        known = f"the paths are {', '.join(_PATHS)}"
        text = f"{request.method} {request.url.path[:60]}: {error.detail}; {known}."
        headers = dict(error.headers) if error.headers else None
        self.metrics.request("other", error.status_code)
        return _error(error.status_code, text, headers)

    async def _body(self, request: Request) -> bytes:
        """The body, or one byte more than is accepted. Its length is counted, not believed."""
        parts, n_bytes, most = [], 0, self.limits.max_body
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes <= most:
                parts.append(part)
            if n_bytes > _DRAINED * most:
                break
        return b"".join(parts) if n_bytes <= most else bytes(most + 1)


def _content(answer: Answer) -> dict[str, Any]:
    """The body of a good answer."""
    title_of = answer.model.title_of
    lists = [
        [
            {"item": r.item, "title": title_of(r.item), "score": r.score, "code": list(r.code)}
            for r in ranked
        ]
        for ranked in answer.lists
    ]
    return {"recommendations": lists, "generation": answer.model.generation}


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    # ASCII: an item of a bad request, repeated in the error, may not be valid Unicode.
    text = json.dumps(content, allow_nan=False) + "\n"
    return Response(text, status, headers, media_type="application/json")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"error": text}, headers)
