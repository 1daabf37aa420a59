"""One process at a time trains a run: two would overwrite each other's checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage.errors import UserError


@contextmanager
def alone(config: Any) -> Iterator[None]:
    """Within this block no other process trains this run, which is told by its checkpoint's name.

    The lock ends with the process, however that ends. Evaluating a saved model needs none.

    Raises:
        UserError: another process has it.
        UserError: the folder of the checkpoint cannot be written.
    """
    if config["model_file"]:
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
                f"Another process trains {config['model']} on {config['dataset']} with these very "
                f"settings and writes {run_id.path_of(config)}: wait for it, or set another "
                "checkpoint_dir."
            )
        yield


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Within this block no other process claims `file`; yields False where another has. The claim
    ends with the process, however that ends."""
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
    """Whether another process trains this run now."""
    path = _path(config)
    if not path.is_file():
        return False
    with claimed(path) as free:
        return not free


def _path(config: Any) -> Path:
    return run_id.path_of(config).with_suffix(".lock")
