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
from recbole_mscgrec.serving.bodies import Limits, parse
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.storage.errors import UserError

_PATHS = ("/recommend", "/health", "/metrics")
# A body of up to 8 times the limit is read and dropped, so that the client receives the answer.
_DRAINED = 8
_MOST_BODIES = 64  # all requests in progress together may take 64 times the limit of a body
_BUSY = {"Retry-After": "1"}


class Service:
    """The HTTP application around a batcher; `app` is the ASGI application.

    Args:
        limits: the largest request that is accepted.
        timeout: seconds for the body to arrive, and from the start of a request to its answer.
    """

    def __init__(self, batcher: Batcher, metrics: Metrics, limits: Limits, timeout: float) -> None:
        self.batcher, self.metrics = batcher, metrics
        self.limits, self.timeout = limits, timeout
        self.stopping = False
        self._bytes = 0  # of the bodies of requests in progress
        # No documentation pages: FastAPI's load scripts from another host.
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        self.app.add_exception_handler(HTTPException, self._unknown)
        self.app.post("/recommend")(self._counted(self.recommend))
        self.app.get("/health")(self._counted(self.health))
        self.app.get("/metrics")(self._counted(self.show_metrics))

    async def recommend(self, request: Request) -> Response:
        """POST /recommend: answer a query, or return an error in one line."""
        begin = time.monotonic()
        try:
            body = await asyncio.wait_for(self._body(request), self.timeout)
        except asyncio.TimeoutError:
            text = f"body: it did not arrive within {self.timeout:g} seconds (--timeout)."
            return _error(408, text, {"Connection": "close"})
        except ClientDisconnect:
            return _error(400, "body: the client disconnected before all of it arrived.")
        if len(body) > self.limits.max_body:
            text = f"body: more than {self.limits.max_body:,} bytes (--max_body)."
            return _error(413, text, {"Connection": "close"})
        if self._bytes + len(body) > _MOST_BODIES * self.limits.max_body:
            return _error(503, "too many large requests are waiting; try again.", _BUSY)
        self._bytes += len(body)
        try:
            if self.stopping:  # not earlier: a client that is still sending might miss the answer
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
        """GET /health: status 200 while requests are accepted, 503 once the service is stopping."""
        model = self.batcher.model
        state = {
            "status": "stopping" if self.stopping else "ok",
            "items": len(model.items),
            "generation": model.generation,
            "version": __version__,
        }
        return _json(503 if self.stopping else 200, state)

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics: all metrics in the text format of Prometheus."""
        model = self.batcher.model
        text = self.metrics.text(
            queue_length=len(self.batcher), generation=model.generation, items=len(model.items)
        )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _counted(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: count its answers, and turn an internal error into a log entry and status
        500."""

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
        """Answer a request with an unknown path or method."""
        assert isinstance(error, HTTPException)
        known = f"the paths are {', '.join(_PATHS)}"
        text = f"{request.method} {request.url.path[:60]}: {error.detail}; {known}."
        headers = dict(error.headers) if error.headers else None
        self.metrics.request("other", error.status_code)
        return _error(error.status_code, text, headers)

    async def _body(self, request: Request) -> bytes:
        """The body; if it is too long, a placeholder one byte above the limit. The received bytes
        are counted, because a Content-Length header can be wrong."""
        parts, n_bytes, most = [], 0, self.limits.max_body
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes <= most:
                parts.append(part)
            if n_bytes > _DRAINED * most:
                break
        return b"".join(parts) if n_bytes <= most else bytes(most + 1)


def _content(answer: Answer) -> dict[str, Any]:
    """The body of a successful answer."""
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
    # ASCII, because an item of a bad request that the error repeats may be invalid Unicode.
    text = json.dumps(content, allow_nan=False) + "\n"
    return Response(text, status, headers, media_type="application/json")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"error": text}, headers)
