"""Many images at once: what is stored, what fails and why, and what a stop leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_server import ImageServer, image_bytes, image_server
from PIL import Image

from recbole_mscgrec.item_content.fetch import (
    Failure,
    Failures,
    Work,
    fetch,
    from_folder,
    from_network,
)
from recbole_mscgrec.item_content.http_get import Getter
from recbole_mscgrec.item_content.schedule import Schedule, Task
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import read_csv


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with image_server() as served:
        yield served


def schedule(**changes: float) -> Schedule:
    values = dict(per_host=4, pause=0.0, retries=3, backoff=0.02, longest_wait=5.0)
    return Schedule(**{**values, **changes})


def run(
    wanted: dict[str, str], work: Work, folder: Path, plan: Schedule | None = None, workers: int = 8
) -> tuple[int, dict[str, str]]:
    """The number of images that came, and item -> reason of those that did not."""
    failures = Failures(folder / "failed.csv")
    bar: list[int] = []
    n = fetch(wanted.items(), work, plan or schedule(), workers, failures, bar.append)
    assert sum(bar) == len(wanted) == n + len(failures.of)
    rows = read_csv(failures.file)
    assert {row["item"]: row["url"] for row in rows}.items() <= wanted.items()
    return n, {row["item"]: f"{row['reason']} x{row['tries']} {row['again']}" for row in rows}


def network(folder: Path, timeout: float = 20.0) -> Work:
    return from_network(Getter(timeout, 300_000, "test"), folder, 256)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_answer_has_its_known_result(server: ImageServer, tmp_path: Path) -> None:
    good = ["ok/1", "large/1", "busy/0", "busy/1", "unavailable/1", "to/ok/2", "half/2"]
    good += ["unsized/1", "busy/Wed,_21_Oct_2015_07:28:00_GMT"]
    bad = {
        "status/404": "HTTP 404 Not Found x1 no",
        "status/500": "HTTP 500 Internal Server Error x4 yes",
        "loop/1": "more than 5 redirects x1 no",
        "to/file:///etc/passwd": "redirect to another scheme than http and https x1 no",
        "html/1": "an HTML page instead of an image x1 no",
        "half/99": "the connection broke within the file x4 yes",
        "cut/1": "damaged image: image file is truncated x1 no",
        "bomb/1": "more pixels than Pillow's limit x1 no",
        "endless/1": "larger than 300,000 bytes (--max_bytes) x1 no",
    }
    wanted = {path.replace("/", "_"): server.url + path for path in [*good, *bad]}
    wanted |= {"a/b": f"{server.url}ok/3", "ftp": "ftp://a/b.jpg", "nowhere": "http://127.0.0.1:9/"}
    n, failed = run(wanted, network(tmp_path), tmp_path)
    for path, reason in bad.items():
        found = failed.pop(path.replace("/", "_"))
        assert found == reason or found.startswith(reason.removesuffix(" x1 no")), path
    assert failed.pop("a/b") == "the item id cannot be a file name x0 no"
    assert failed.pop("ftp") == "not an http or https address x0 no"
    assert failed.pop("nowhere") == "connection failed: Connection refused x4 yes"
    assert failed == {} and n == len(good)
    stored = {p.stem: Image.open(p).size for p in tmp_path.glob("*.jpg")}
    assert stored == {path.replace("/", "_"): (40, 30) for path in good} | {
        "large_1": (256, 128),
        "unsized_1": (256, 171),
    }
    assert server.asked["/busy/1"] == 2 and server.asked["/unavailable/1"] == 3
    assert server.asked["/status/404"] == 1 and server.asked["/ok/3"] == 0


def test_a_slow_answer_is_given_up_and_tried_again(server: ImageServer, tmp_path: Path) -> None:
    wanted = {"a": f"{server.url}slow/1"}
    n, failed = run(wanted, network(tmp_path, timeout=0.2), tmp_path, schedule(retries=1))
    assert n == 0 and failed == {"a": "no answer within 0.2 s (--timeout) x2 yes"}


def test_a_host_is_asked_for_no_more_at_once_than_it_may(
    server: ImageServer, tmp_path: Path
) -> None:
    wanted = {f"i{i}": f"{server.url}delayed/{i}" for i in range(12)}
    assert run(wanted, network(tmp_path), tmp_path, schedule(per_host=3)) == (12, {})
    assert server.most_open == 3


def test_the_pause_that_a_host_asks_for_is_kept(server: ImageServer, tmp_path: Path) -> None:
    began = time.perf_counter()
    assert run({"a": f"{server.url}busy/1"}, network(tmp_path), tmp_path) == (1, {})
    assert time.perf_counter() - began >= 1.0


def test_a_host_that_asks_for_an_hour_is_left_for_the_next_run(
    server: ImageServer, tmp_path: Path
) -> None:
    wanted = {f"i{i}": f"{server.url}busy/{3600 + i}" for i in range(5)}
    n, failed = run(wanted, network(tmp_path), tmp_path, schedule(per_host=1))
    reason = "HTTP 429 Too Many Requests, asks for a pause of more than --longest_wait"
    assert n == 0 and sum(server.asked.values()) == 1
    assert failed == {"i0": "HTTP 429 Too Many Requests x1 yes"} | {
        f"i{i}": f"{reason} x0 yes" for i in range(1, 5)
    }


def test_files_of_a_folder(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    Image.new("RGBA", (600, 300)).save(source / "a.png")
    (source / "b.jpg").write_bytes(b"<html>")
    wanted = {"a": str(source / "a.png"), "b": str(source / "b.jpg"), "c": str(source / "c.jpg")}
    failures = Failures(tmp_path / "failed.csv")
    plan, work = schedule(retries=0), from_folder(target, 100)
    assert fetch(wanted.items(), work, plan, 2, failures, print, host=lambda source: "") == 1
    assert Image.open(target / "a.jpg").size == (100, 50)
    assert failures.of["b"].reason == "an HTML page instead of an image"
    assert failures.of["c"].reason == "cannot be read: No such file or directory"


def test_an_error_that_is_no_images_ends_everything_and_keeps_what_is_done(tmp_path: Path) -> None:
    """A full disk: the first two images fit."""
    stored, stopped = threading.Semaphore(2), threading.Event()

    def work(task: Task) -> None:
        if not stored.acquire(blocking=False):
            raise UserError("Cannot write x: No space left on device.")

    failures = Failures(tmp_path / "failed.csv")
    wanted = [("a/b", "http://a/"), *((f"i{i}", "http://a/") for i in range(50))]
    done: list[int] = []
    with pytest.raises(UserError, match="No space left"):
        fetch(wanted, work, schedule(), 1, failures, done.append, stopped.set)
    assert stopped.is_set() and len(done) == 3
    assert list(Failures(failures.file).read()) == ["a/b"]


def test_counts_by_reason_leave_details_out(tmp_path: Path) -> None:
    wanted = {str(i): str(tmp_path / f"{i}.jpg") for i in range(3)}
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(image_bytes("JPEG", (300, 200))[: 400 + 300 * i])
    failures = Failures(tmp_path / "failed.csv")
    plan, work = schedule(retries=0), from_folder(tmp_path, 9)
    fetch(wanted.items(), work, plan, 1, failures, print, host=lambda source: "")
    assert len({failure.reason for failure in failures.of.values()}) == 3
    failures.of["d"] = Failure("u", "a cut file", 1, False)
    assert failures.counts() == [("damaged image", 2), ("a cut file", 1), ("cannot be read", 1)]


def test_a_file_of_failures_that_somebody_changed_is_named(tmp_path: Path) -> None:
    (tmp_path / "failed.csv").write_text("item,url\na,b\n")
    with pytest.raises(UserError, match=r"failed.csv is not as this command writes it.*delete it"):
        Failures(tmp_path / "failed.csv").read()
