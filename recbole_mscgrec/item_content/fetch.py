"""Fetches many images in parallel: threads do the work, and one loop schedules it and records the
results."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from recbole_mscgrec.item_content.http_get import Getter, Moved, NotFetched, host_of
from recbole_mscgrec.item_content.pictures import NoImage, as_jpeg, fault_of_name
from recbole_mscgrec.item_content.schedule import Schedule, Task
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.files import read_csv, write_csv, written_whole

_MOST_REDIRECTS = 5
_COLUMNS = ("item", "url", "reason", "tries", "again")
_YES, _NO = "yes", "no"  # column `again`: whether the next run tries the item again
_SAVE_EVERY = 60.0  # seconds
_NAP = 0.2  # seconds; waits are short, so that every system notices Ctrl-C

Work = Callable[[Task], Moved | None]  # raises NotFetched


class Failure(NamedTuple):
    """An image that could not be fetched."""

    url: str
    reason: str
    tries: int
    lasting: bool  # another try would fail, too


class Failures:
    """The failures by item, kept in a CSV file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.of: dict[str, Failure] = {}
        self._saved_at = time.monotonic()

    def read(self) -> dict[str, Failure]:
        """The failures of earlier runs, by item."""
        if not self.file.is_file():
            return {}
        try:
            return self._read()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.file} is not as this command writes it ({one_line(error)}): delete it, and "
                "the failed images are tried again."
            ) from error

    def _read(self) -> dict[str, Failure]:
        return {
            row["item"]: Failure(row["url"], row["reason"], int(row["tries"]), row["again"] == _NO)
            for row in read_csv(self.file)
        }

    def save(self, only_if_old: bool = False) -> None:
        """Write the file; with `only_if_old`, at most once a minute. Raises UserError."""
        if only_if_old and time.monotonic() - self._saved_at < _SAVE_EVERY:
            return
        rows = (
            {"item": item, "url": f.url, "reason": f.reason, "tries": str(f.tries)}
            | {"again": _NO if f.lasting else _YES}
            for item, f in sorted(self.of.items())
        )
        write_csv(self.file, _COLUMNS, rows)
        self._saved_at = time.monotonic()

    def counts(self) -> list[tuple[str, int]]:
        """Reasons, without their details, and their numbers of failures. The most frequent come
        first, then by name, so the order does not depend on that of the downloads."""
        counts = Counter(failure.reason.partition(":")[0] for failure in self.of.values())
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def from_network(getter: Getter, folder: Path, size: int) -> Work:
    """A function that downloads the image of a task and stores it in the folder."""

    def work(task: Task) -> Moved | None:
        answer = getter.get(task.url)
        if isinstance(answer, Moved):
            return answer
        try:
            _store(folder, task.item, as_jpeg(answer.content, size))
        except NoImage as error:
            # If the length is unknown, a broken connection looks like the end of the file.
            broken = not answer.sized and "damaged" in str(error)
            raise NotFetched(str(error), lasting=not broken) from error
        return None

    return work


def from_folder(folder: Path, size: int) -> Work:
    """A function that reads the image file of a task and stores it in the folder."""

    def work(task: Task) -> None:
        try:
            content = Path(task.url).read_bytes()
        except OSError as error:
            raise NotFetched(f"cannot be read: {error.strerror}", lasting=False) from error
        try:
            _store(folder, task.item, as_jpeg(content, size))
        except NoImage as error:
            raise NotFetched(str(error), lasting=True) from error

    return work


def _store(folder: Path, item: str, jpeg: bytes) -> None:
    with written_whole(folder / f"{item}.jpg") as temporary:
        temporary.write_bytes(jpeg)


def fetch(
    wanted: Iterable[tuple[str, str]],
    work: Work,
    schedule: Schedule,
    workers: int,
    failures: Failures,
    progress: Callable[[int], object],
    stop: Callable[[], None] = lambda: None,
    host: Callable[[str], str] = host_of,
) -> int:
    """Fetch the images of all (item, source) pairs; failures are added to `failures`.

    Args:
        wanted: pairs of an item token and an address or file.
        work: fetches one image, in a thread; raises NotFetched.
        schedule: decides which task may begin when.
        workers: number of threads.
        progress: called with 1 for each finished item.
        stop: called on Ctrl-C or an error, so that the running work ends soon.
        host: returns the host of a source; raises NotFetched.

    Returns:
        The number of images that were fetched.
    """
    account = _Account(schedule, failures, progress)
    running: dict[Future[Moved | None], Task] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        for item, source in wanted:
            account.add(Task(item, source, source, ""), host)
        while schedule.left:
            while len(running) < workers and (task := schedule.take(time.monotonic())):
                if reason := schedule.reason_to_skip(task):
                    schedule.finished(task)
                    account.fail(task, reason, lasting=False)
                else:
                    running[pool.submit(work, task)] = task
            to_next = schedule.seconds_to_next(time.monotonic())
            pause = _NAP if to_next is None or len(running) == workers else min(to_next, _NAP)
            if not running:
                time.sleep(pause)
                continue
            for future in wait(running, timeout=pause, return_when=FIRST_COMPLETED).done:
                account.settle(running.pop(future), future)
            failures.save(only_if_old=True)
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        failures.save()
    return account.n_fetched


class _Account:
    """Records the outcome of each task."""

    def __init__(
        self, schedule: Schedule, failures: Failures, progress: Callable[[int], object]
    ) -> None:
        self.schedule, self.failures, self.progress = schedule, failures, progress
        self.n_fetched = 0

    def add(self, task: Task, host: Callable[[str], str]) -> None:
        try:
            if fault := fault_of_name(task.item):
                raise NotFetched(fault, True)
            task.host = host(task.source)
        except NotFetched as why:
            self.fail(task, why.reason, why.lasting)
        else:
            self.schedule.add(task)

    def fail(self, task: Task, reason: str, lasting: bool) -> None:
        self.failures.of[task.item] = Failure(task.source, reason, task.tries, lasting)
        self.progress(1)

    def settle(self, task: Task, future: Future[Moved | None]) -> None:
        """Record the outcome of a try. Errors other than NotFetched are raised."""
        try:
            moved = future.result()
            if moved is not None:
                _move(self.schedule, task, moved)
                return
        except NotFetched as why:
            if not self.schedule.failed(task, why, time.monotonic()):
                self.fail(task, why.reason, why.lasting)
            return
        self.schedule.finished(task)
        self.n_fetched += 1
        self.failures.of.pop(task.item, None)
        self.progress(1)


def _move(schedule: Schedule, task: Task, moved: Moved) -> None:
    if task.redirects >= _MOST_REDIRECTS:
        raise NotFetched(f"more than {_MOST_REDIRECTS} redirects", True)
    try:
        host = host_of(moved.url)
    except NotFetched:
        raise NotFetched("redirect to another scheme than http and https", True) from None
    schedule.moved(task, moved.url, host)
