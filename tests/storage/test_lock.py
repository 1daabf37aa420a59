"""Locks between processes and machines that share a folder; the other machine is made up."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recbole_mscgrec.storage import lock
from recbole_mscgrec.storage.errors import UserError

LEASE, HEARTBEAT = 1.5, 0.2  # seconds
_HOLD = """
import socket, sys
from pathlib import Path
from recbole_mscgrec.storage import lock
host, name, lock.LEASE, lock.HEARTBEAT = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
if host:
    socket.gethostname = lambda: host
with lock.claim(Path(name), "works"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE", LEASE)
    monkeypatch.setattr(lock, "HEARTBEAT", HEARTBEAT)


@contextmanager
def held(name: Path, machine: str = "") -> Iterator[subprocess.Popen]:
    """Another process has the lock until the block ends, on this machine or one of that name."""
    command = [sys.executable, "-c", _HOLD, machine, str(name), str(LEASE), str(HEARTBEAT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def test_a_lock_is_a_file_that_exists_while_it_is_held(tmp_path: Path) -> None:
    name = tmp_path / "new" / "a.pth"
    with lock.claim(name, "works"):
        assert [file.name for file in name.parent.iterdir()] == ["a.pth.held"]
        with pytest.raises(lock.Claimed), lock.claim(name, "works"):
            pass
    assert not list(name.parent.iterdir())


def test_the_holder_is_named_with_its_machine_and_what_it_does(tmp_path: Path) -> None:
    with held(tmp_path / "a") as process, held(tmp_path / "b", "gpu7") as other:
        with pytest.raises(lock.Claimed) as here, lock.claim(tmp_path / "a", "trains X", "wait"):
            pass
        with pytest.raises(lock.Claimed) as there, lock.claim(tmp_path / "b", "trains X", "wait"):
            pass
    pattern = r"Another process trains X: process (\d+) on (\S+), (.*) \((.*)\): wait\..*"
    mine, its = (re.fullmatch(pattern, str(e.value)) for e in (here, there))
    assert mine and its
    assert mine[1] == str(process.pid) and its.group(1, 2) == (str(other.pid), "gpu7")
    assert re.fullmatch(r"running since [\d-]+ [\d:]+, last sign of life 0 s ago", mine[3])
    assert its[3] == "last sign of life 0 s ago" and its[4] == str(tmp_path / "b.held")


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    with held(tmp_path / "a") as process:
        kill(process)
        assert (tmp_path / "a.held").is_file()
        began = time.monotonic()
        with lock.claim(tmp_path / "a", "works"):
            assert time.monotonic() - began < LEASE / 2


def test_the_lock_of_a_dead_machine_is_free_after_a_while_without_a_touch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(tmp_path / "a", "gpu7") as process:
        kill(process)
        match = "If that machine is dead, repeat the command 2 s after .*, or remove a.held"
        with pytest.raises(lock.Claimed, match=match), lock.claim(tmp_path / "a", "works"):
            pass  # it was alive a moment ago
        time.sleep(LEASE + HEARTBEAT)
        with lock.claim(tmp_path / "a", "works"):
            assert lock.file_of(tmp_path / "a").is_file()
    assert "a.held is held by process" in caplog.text and "on gpu7" in caplog.text


def test_the_clock_of_this_machine_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    with held(tmp_path / "a", "gpu7"):
        for hours in (-5, 5):
            monkeypatch.setattr(time, "time", lambda hours=hours: now() + 3600 * hours)
            time.sleep(2 * HEARTBEAT)
            told = "last sign of life 0 s ago"
            with pytest.raises(lock.Claimed, match=told), lock.claim(tmp_path / "a", "works"):
                pass


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    with held(tmp_path / "a") as process:
        assert process.stdin is not None
        process.stdin.close()
        with lock.claim(tmp_path / "a", "works", wait=True):
            assert process.wait() == 0


def test_who_loses_the_lock_ends_with_the_reason(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with pytest.raises(UserError, match=r"lost .*a\.held \((marker-missing|refresh-failed)\)"):
        with lock.claim(tmp_path / "a", "works"):
            (tmp_path / "a.held").unlink()
            for _ in range(400):
                time.sleep(0.05)


def test_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="told"), lock.claim(tmp_path / "a", "works"):
        raise KeyboardInterrupt("told")
    assert not (tmp_path / "a.held").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    match = r"Cannot write .*file/a.held, which tells .* this one works: "
    with pytest.raises(UserError, match=match), lock.claim(tmp_path / "file" / "a", "works"):
        pass
