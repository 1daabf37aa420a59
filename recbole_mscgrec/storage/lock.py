"""Locks between processes, also of several machines that share a folder.

A lock is a file that exists while it is held. It names the machine, the process and the start of
that process, and a thread of the holder touches it every `HEARTBEAT` seconds. The lock of a killed
process is free at once on its own machine. On another machine it is free after `LEASE` seconds
without a touch, by the clock of the folder, and as many seconds in which that machine watches it.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from filelock import SoftFileLease, Timeout

from recbole_mscgrec.storage.errors import UserError

HEARTBEAT = 10.0  # seconds between two touches
LEASE = 60.0  # seconds without a touch after which the holder counts as dead
_AT_ONCE = 0.3  # seconds in which the lock of a dead process of this machine is taken over
_SUFFIX = ".held"  # other than .lock: those of earlier versions stayed when they were free


class Claimed(UserError):
    """Another process holds the lock."""


class _Holder(NamedTuple):
    pid: int
    machine: str
    silent: float  # seconds since the last touch, by the clock of the folder
    here: bool  # whether it is a process of this machine

    def __str__(self) -> str:
        told = f"process {self.pid} on {self.machine}"
        if self.here:
            with suppress(psutil.Error):
                began = time.localtime(psutil.Process(self.pid).create_time())
                told += f", running since {time.strftime('%Y-%m-%d %H:%M:%S', began)}"
        return f"{told}, last sign of life {self.silent:.0f} s ago"


def file_of(name: Path) -> Path:
    """The file that exists while `name` is claimed."""
    return name.with_name(f"{name.name}{_SUFFIX}")


@contextmanager
def claim(
    name: Path, what: str, instead: str = "wait for it", wait: bool = False
) -> Iterator[None]:
    """Within this block no other process can claim `name`, on any machine that shares its folder.

    Args:
        name: a path, which need not exist.
        what: what the holder does, for the error: "trains SASRec on ml-1m".
        instead: what the user can do, for the error.
        wait: wait for the holder instead of raising Claimed.

    Raises:
        Claimed: another process holds it, with its machine, number and last sign of life.
        UserError: the lock cannot be written; or it was lost within the block, because somebody
            removed it, or because this process could not touch it in time.
    """
    file, lost = file_of(name), list[Any]()

    def lose(how: Any) -> None:
        lost.append(how)
        # The one that the main thread takes for Ctrl-C: scripts in the background ignore SIGINT.
        heard = callable(signal.getsignal(signal.SIGINT))
        _thread.interrupt_main(signal.SIGINT if heard else signal.SIGTERM)

    lease = SoftFileLease(
        file, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, on_compromise=lose
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, file, what, instead, wait)
    except OSError as error:
        raise UserError(
            f"Cannot write {file}, which tells other processes that this one {what}: "
            f"{error.strerror or error}. Make the folder writable, free space there, or name "
            "another one."
        ) from error
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
        raise UserError(
            f"This process {what}, but lost {file} ({lost[0].reason}), which tells other processes "
            "so: it was removed, or not touched in time because the process or its disk had "
            "stopped. It ends, since another process may have begun the same."
        ) from None
    finally:
        with suppress(OSError):  # it is free anyway, LEASE seconds later
            lease.release()


def _acquire(lease: SoftFileLease, file: Path, what: str, instead: str, wait: bool) -> None:
    """Raises Claimed, or OSError."""
    # The first look comes before filelock's, since that of some versions compares clocks.
    holder = _holder(lease, file)
    seconds = _AT_ONCE
    if holder is not None and not holder.here:
        if holder.silent > LEASE:
            seconds = LEASE + HEARTBEAT
            getLogger().warning(
                f"{file} is held by {holder}. If there is no other within {LEASE:.0f} s from now, "
                "it counts as dead and this process goes on."
            )
        elif not wait:
            raise _claimed(holder, file, what, instead)
    try:
        lease.acquire(timeout=-1 if wait else seconds)
    except Timeout:
        raise _claimed(_holder(lease, file), file, what, instead) from None


def _claimed(holder: _Holder | None, file: Path, what: str, instead: str) -> Claimed:
    """The error. On this machine a lock is free as soon as its process has ended."""
    if holder is not None and not holder.here:
        instead += (
            f". If that machine is dead, repeat the command {LEASE:.0f} s after its last sign of "
            f"life, or remove {file.name}"
        )
    return Claimed(f"Another process {what}: {holder or 'it has just begun'} ({file}): {instead}.")


def _holder(lease: SoftFileLease, file: Path) -> _Holder | None:
    """Who holds a lock; None if nobody does, or it is being written."""
    owner = lease.owner
    own = SoftFileLease(file.with_name(f"{file.name}.{os.getpid()}"))
    with own, suppress(FileNotFoundError):
        # A file of our own beside it shows the time of the folder and our name as it is written.
        silent = _touched(own.lock_file) - _touched(file)
        if owner is not None and own.owner is not None:
            here = owner.hostname == own.owner.hostname
            machine = owner.hostname.partition("?")[0]  # without the number of its container
            return _Holder(owner.pid, machine, max(0.0, silent), here)
    return None


def _touched(file: str | Path) -> float:
    """Of the opened file: for one that is not, a network file system may show an old time."""
    with open(file, "rb") as stream:
        return os.fstat(stream.fileno()).st_mtime
