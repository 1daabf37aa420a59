"""Decides which download may begin when: connections and pauses per host, and retries."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

from recbole_mscgrec.item_content.http_get import NotFetched

_LONGEST_BACKOFF = 60.0  # seconds between two tries, unless the server asks for more
_DEAD_AFTER = 20  # failed connections in a row after which a host gets no more requests


@dataclass(slots=True)
class Task:
    """An item's image to be fetched."""

    item: str
    source: str  # the address (or file) in the data set
    url: str  # the current address, after redirects
    host: str
    tries: int = 0
    redirects: int = 0


@dataclass(slots=True)
class _Host:
    waiting: deque[Task] = field(default_factory=deque)
    active: int = 0
    ready: float = 0.0  # no request before this time
    due: bool = False  # whether it is in the heap of hosts
    in_a_row: int = 0  # failed connections since the last answer
    closed: str = ""  # why it gets no more requests in this run; '' if it does


class Schedule:
    """Hands out tasks so that no host is overloaded. It uses neither a clock nor threads: methods
    that need the time get it as an argument, in seconds.

    Args:
        per_host: maximum number of parallel connections to a host.
        pause: minimum seconds between the starts of two requests to a host.
        retries: tries of a task after the first one.
        backoff: seconds before the second try, doubled for each later one, plus or minus half.
        longest_wait: a host that asks for a longer pause gets no more requests in this run.
    """

    def __init__(
        self, per_host: int, pause: float, retries: int, backoff: float, longest_wait: float
    ) -> None:
        self.per_host, self.pause, self.longest_wait = per_host, pause, longest_wait
        self.retries, self.backoff = retries, backoff
        self._hosts: dict[str, _Host] = {}
        self._due: list[tuple[float, int, str]] = []  # hosts with a task and a free connection
        self._later: list[tuple[float, int, Task]] = []  # tasks to retry, by time
        self._numbers = itertools.count()  # break ties in the heaps: first come, first served
        self._left = 0

    @property
    def left(self) -> int:
        """Number of tasks that are not finished."""
        return self._left

    def add(self, task: Task) -> None:
        """Add a new task."""
        self._left += 1
        self._wait(task)

    def take(self, now: float) -> Task | None:
        """A task that may begin now; None if there is none."""
        while self._later and self._later[0][0] <= now:
            self._wait(heapq.heappop(self._later)[2])
        while self._due and self._due[0][0] <= now:
            name = heapq.heappop(self._due)[2]
            host = self._hosts[name]
            host.due = False
            if not host.waiting or host.active >= self.per_host:  # an outdated entry
                continue
            if host.ready > now:  # the host has asked for a pause meanwhile
                self._mark_due(name)
                continue
            task = host.waiting.popleft()
            host.active += 1
            if not host.closed:
                task.tries += 1
                host.ready = now + self.pause
            self._mark_due(name)
            return task
        return None

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until `take` may return a task, if nothing else happens; None: never."""
        times = [heap[0][0] for heap in (self._due, self._later) if heap]
        return max(min(times) - now, 0.0) if times else None

    def reason_to_skip(self, task: Task) -> str:
        """Why a taken task must not be tried, if its host gets no more requests; else ''."""
        return self._hosts[task.host].closed

    def finished(self, task: Task) -> None:
        """Record that a task is finished: its file was fetched, or it was skipped."""
        self._left -= 1
        self._answered(task)

    def moved(self, task: Task, url: str, host: str) -> None:
        """Record a redirect: the task waits for its new host."""
        self._answered(task)
        task.url, task.host = url, host
        task.redirects, task.tries = task.redirects + 1, task.tries - 1
        self._wait(task)

    def failed(self, task: Task, why: NotFetched, now: float) -> bool:
        """Record a failed try.

        Returns:
            Whether the task will be tried again. If not, it is finished.
        """
        host = self._hosts[task.host]
        host.active -= 1
        host.in_a_row = 0 if why.answered else host.in_a_row + 1
        if host.in_a_row >= _DEAD_AFTER and not host.closed:
            host.closed = f"{why.reason}, {host.in_a_row} times in a row"
        if why.wait is not None and not why.lasting:
            host.ready = max(host.ready, now + why.wait)
            if why.wait > self.longest_wait:
                host.closed = f"{why.reason}, asks for a pause of more than --longest_wait"
        if host.closed:
            host.ready, host.due = 0.0, False  # its waiting tasks are handed out and skipped
        self._mark_due(task.host)
        if why.lasting or host.closed or task.tries > self.retries:
            self._left -= 1
            return False
        wait = min(self.backoff * 2 ** (task.tries - 1), _LONGEST_BACKOFF)
        wait *= random.uniform(0.5, 1.5)  # tasks that failed together are not retried together
        heapq.heappush(self._later, (now + max(wait, why.wait or 0.0), next(self._numbers), task))
        return True

    def _wait(self, task: Task) -> None:
        host = self._hosts.setdefault(task.host, _Host())
        host.waiting.append(task)
        self._mark_due(task.host)

    def _answered(self, task: Task) -> None:
        host = self._hosts[task.host]
        host.active, host.in_a_row = host.active - 1, 0
        self._mark_due(task.host)

    def _mark_due(self, name: str) -> None:
        host = self._hosts[name]
        if host.waiting and host.active < self.per_host and not host.due:
            host.due = True
            heapq.heappush(self._due, (host.ready, next(self._numbers), name))
