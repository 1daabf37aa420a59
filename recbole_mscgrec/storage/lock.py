"""Locks between processes, including processes on several machines that share a folder.

A lock is a file that exists while it is held. It names the machine, the process and the start time
of that process, and a thread of the holder touches it every `HEARTBEAT` seconds. If the holder is
killed, other processes on its machine can take the lock at once. Another machine takes it if the
file was not touched for `LEASE` seconds, by the clock of the file system, and is not touched for
`LEASE` more seconds while that machine watches it.
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
_AT_ONCE = 0.3  # seconds that suffice to take over the lock of a dead process of this machine
_SUFFIX = ".held"  # not .lock: earlier versions left their .lock files behind when free


class Claimed(UserError):
    """Another process holds the lock."""


class _Holder(NamedTuple):
    pid: int
    machine: str
    silent: float  # seconds since the last touch, by the clock of the file system
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
    """Hold the lock on `name` within this block: no other process can claim it, on any machine that
    shares its folder.

    Args:
        name: a path, which need not exist.
        what: what the holder does, for the error: "trains SASRec on ml-1m".
        instead: what the user can do, for the error.
        wait: wait for the holder instead of raising Claimed.

    Raises:
        Claimed: another process holds the lock; the error names its machine, process number and
            last sign of life.
        UserError: the lock cannot be written; or it was lost within the block, because the file was
            removed, or because this process could not touch it in time.
    """
    file, lost = file_of(name), list[Any]()

    def lose(how: Any) -> None:
        lost.append(how)
        # Interrupt the main thread as Ctrl-C does. Background scripts ignore SIGINT: use SIGTERM.
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
            f"{error.strerror or error}. Make the folder writable, free space there, or use "
            "another folder."
        ) from error
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
        raise UserError(
            f"This process {what}, but lost its lock {file} ({lost[0].reason}): the file was "
            "removed, or it was not touched in time because the process or its disk stalled. The "
            "process ends, because another one may have started the same work."
        ) from None
    finally:
        with suppress(OSError):  # the lock expires anyway, LEASE seconds later
            lease.release()


def _acquire(lease: SoftFileLease, file: Path, what: str, instead: str, wait: bool) -> None:
    """Acquire the lock. Raises Claimed, or OSError."""
    # Check the holder before filelock does: some versions compare the clocks of two machines.
    holder = _holder(lease, file)
    seconds = _AT_ONCE
    if holder is not None and not holder.here:
        if holder.silent > LEASE:
            seconds = LEASE + HEARTBEAT
            getLogger().warning(
                f"{file} is held by {holder}. If it gives no sign of life in the next "
                f"{LEASE:.0f} s, it counts as dead and this process continues."
            )
        elif not wait:
            raise _claimed(holder, file, what, instead)
    try:
        lease.acquire(timeout=-1 if wait else seconds)
    except Timeout:
        raise _claimed(_holder(lease, file), file, what, instead) from None


def _claimed(holder: _Holder | None, file: Path, what: str, instead: str) -> Claimed:
    """The error for a lock that is held. Its advice about dead holders is for other machines only:
    on this machine a lock is free as soon as its process has ended."""
    if holder is not None and not holder.here:
        instead += (
            f". If that machine is dead, repeat the command {LEASE:.0f} s after its last sign of "
            f"life, or remove {file.name}"
        )
    return Claimed(f"Another process {what}: {holder or 'it has just begun'} ({file}): {instead}.")


def _holder(lease: SoftFileLease, file: Path) -> _Holder | None:
    """Who holds a lock; None if nobody does, or if the file is being written."""
    owner = lease.owner
    own = SoftFileLease(file.with_name(f"{file.name}.{os.getpid()}"))
    with own, suppress(FileNotFoundError):
        # A lock file of our own beside it shows the time of the file system and our host name.
        silent = _touched(own.lock_file) - _touched(file)
        if owner is not None and own.owner is not None:
            here = owner.hostname == own.owner.hostname
            machine = owner.hostname.partition("?")[0]  # without the container id
            return _Holder(owner.pid, machine, max(0.0, silent), here)
    return None


def _touched(file: str | Path) -> float:
    """The modification time. The file is opened first, because a network file system may report an
    outdated time for a file that is not open."""
    with open(file, "rb") as stream:
        return os.fstat(stream.fileno()).st_mtime
