"""Only one process at a time may train a run: two would overwrite each other's checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError


@contextmanager
def alone(config: Any) -> Iterator[None]:
    """Within this block no other process can train this run, which is identified by its checkpoint.

    The lock is released when the process ends, however it ends. Evaluating a saved model needs no
    lock. Of several processes that train together the first one holds it.

    Raises:
        UserError: another process holds the lock.
        UserError: the checkpoint folder cannot be written.
    """
    if config["model_file"] or not processes.is_first():
        yield
        return
    path = _path(config)
    with ExitStack() as held:
        try:
            mine = held.enter_context(claimed(path))
        except OSError as error:
            raise UserError(
                f"Cannot write in {path.parent}: {error}. Make it writable or set checkpoint_dir."
            ) from error
        if not mine:
            raise UserError(
                f"Another process trains {config['model']} on {config['dataset']} with the "
                f"same settings and writes {run_id.path_of(config)}: wait for it, or set another "
                "checkpoint_dir."
            )
        yield


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Within this block no other process can claim `file`. Yields False if another process has
    claimed it. The claim is released when the process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    with lock:
        yield True


def taken(config: Any) -> bool:
    """Whether another process is training this run."""
    path = _path(config)
    if not path.is_file():
        return False
    with claimed(path) as free:
        return not free


def _path(config: Any) -> Path:
    return run_id.path_of(config).with_suffix(".lock")
