"""Batches requests: those that arrive within a few milliseconds share one call of the model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from recbole_mscgrec.serving.metrics import Metrics

Tokens = tuple[str, ...]


class Model(Protocol):
    """The part of a Recommender that the service uses."""

    @property
    def items(self) -> list[str]:
        """Tokens of all items."""

    @property
    def generation(self) -> int:
        """Number of the version of the export folder."""

    def title_of(self, item: str) -> str | None:
        """The title of an item, if it has one."""

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        top: int = 10,
        *,
        exclude: Sequence[str] | Sequence[Sequence[str]] | None = None,
        allowed: Sequence[str] | Sequence[Sequence[str]] | None = None,
        exclude_seen: bool = False,
        beam_size: int | None = None,
        fallback: str | None = None,
        cold_share: float | None = None,
    ) -> Sequence[Sequence[Any]]:
        """One ranked list of Recommendations for each history."""


class Options(NamedTuple):
    """The options that have a single value per call of the model; see `Recommender.recommend`."""

    top: int = 10
    exclude_seen: bool = False
    beam_size: int | None = None
    fallback: str | None = None
    cold_share: float | None = None


@dataclass(frozen=True)
class Query:
    """A request.

    Attributes:
        histories: item tokens of one or more users.
        exclude: one list of items for each history; None if nothing is excluded.
        allowed: a list of items for all histories; None for all items.
        allowed_each: one list of items for each history, instead of `allowed`.
    """

    histories: tuple[Tokens, ...]
    options: Options = Options()
    exclude: tuple[Tokens, ...] | None = None
    allowed: Tokens | None = None
    allowed_each: tuple[Tokens, ...] | None = None

    def joins(self, other: Query) -> bool:
        """Whether one call of the model can answer both queries.

        The model's mask of allowed items has a single row for a call, or one per history. The
        latter is slow in large catalogues, so queries with different allowed items are not joined.
        """
        return (
            self.options == other.options
            and (self.exclude is None) == (other.exclude is None)
            and self.allowed_each is other.allowed_each is None
            and self.allowed == other.allowed
        )


class Answer(NamedTuple):
    """One ranked list for each history of a query, all made by this model."""

    lists: Sequence[Sequence[Any]]
    model: Model


class QueueFull(Exception):
    """The queue is full: the request is refused."""


class Stopping(Exception):
    """The service is stopping: the request is refused."""


@dataclass(eq=False)
class _Job:
    query: Query
    future: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """A bounded queue, and one thread that answers its requests in batches.

    Only this thread runs the model, because torch and the model's buffers are not made for
    concurrent calls. A batch is complete when it has `max_batch` histories, or when its first
    request has waited for `wait` seconds.

    Args:
        wait: seconds that the first request of a batch waits for others.
        max_batch: maximum number of histories in a batch; a larger request is a batch by itself.
        max_waiting: maximum number of requests in the queue; further ones are refused.
    """

    def __init__(
        self, model: Model, metrics: Metrics, *, wait: float, max_batch: int, max_waiting: int
    ) -> None:
        self._model, self._metrics = model, metrics
        self._wait, self._max_batch, self._max_waiting = wait, max_batch, max_waiting
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def model(self) -> Model:
        """The model that answers the next batch."""
        return self._model

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, query: Query) -> Future[Answer]:
        """Queue a request. If the future is cancelled before its batch begins, the request is
        dropped.

        The future raises the exception that the model raises for this query.

        Raises:
            QueueFull: `max_waiting` requests are waiting.
            Stopping: `close` was called.
        """
        job = _Job(query)
        with self._changed:
            if self._closed:
                raise Stopping
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull
            self._waiting.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job))
        return job.future

    def swap(self, model: Model) -> None:
        """Use another model from the next batch on."""
        self._model = model

    def close(self) -> None:
        """Accept no more requests, and return when those in the queue are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, job: _Job) -> None:
        """Remove a cancelled request from the queue."""
        if job.future.cancelled():
            with self._changed:
                if job in self._waiting:
                    self._waiting.remove(job)

    def _run(self) -> None:
        while (jobs := self._take()) is not None:
            if jobs:
                self._answer(self._model, jobs)  # read once: no answer mixes two generations

    def _take(self) -> list[_Job] | None:
        """The requests of the next batch; None when the queue is closed and empty."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return None
            due = self._waiting[0].arrived + self._wait
            batch, is_full = self._next()
            while batch and not is_full and not self._closed:
                if (seconds := due - time.monotonic()) <= 0:
                    break
                self._changed.wait(seconds)
                batch, is_full = self._next()
            for job in batch:
                self._waiting.remove(job)
            return [job for job in batch if job.future.set_running_or_notify_cancel()]

    def _next(self) -> tuple[list[_Job], bool]:
        """The oldest request with those that can join it in a batch, and whether the batch is
        full."""
        batch: list[_Job] = []
        n_left = self._max_batch
        for job in self._waiting:
            if batch and not job.query.joins(batch[0].query):
                continue
            n_histories = len(job.query.histories)
            if batch and n_histories > n_left:
                return batch, True
            batch.append(job)
            n_left -= n_histories
        return batch, n_left <= 0

    def _answer(self, model: Model, jobs: list[_Job]) -> None:
        """Answer requests with one call. If it fails, each half is tried separately, so that a bad
        request does not fail the others."""
        try:
            lists = self._recommend(model, [job.query for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                self._answer(model, jobs[: len(jobs) // 2])
                self._answer(model, jobs[len(jobs) // 2 :])
            return
        for job in jobs:
            n_histories = len(job.query.histories)
            job.future.set_result(Answer(lists[:n_histories], model))
            lists = lists[n_histories:]

    def _recommend(self, model: Model, queries: list[Query]) -> Sequence[Sequence[Any]]:
        """One list for each history of these queries."""
        histories = [history for query in queries for history in query.histories]
        exclude = [items for query in queries for items in query.exclude or ()]
        first = queries[0]
        self._metrics.batch(len(histories))
        lists = model.recommend(
            histories,
            exclude=exclude or None,
            allowed=first.allowed if first.allowed_each is None else first.allowed_each,
            **first.options._asdict(),
        )
        if len(lists) != len(histories):  # the split would give lists to the wrong requests
            raise RuntimeError(f"{len(lists)} lists for {len(histories)} histories")
        return lists
