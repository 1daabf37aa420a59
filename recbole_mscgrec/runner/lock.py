"""Lets only one process at a time train a run: two would overwrite each other's checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage import lock, processes


@contextmanager
def alone(config: Any) -> Iterator[None]:
    """Within this block no other process can train this run, which is identified by its checkpoint.

    The lock is released when the process ends, however it ends. Evaluating a saved model needs no
    lock. Of several processes that train together, the first one holds it.

    Raises:
        UserError: another process holds the lock.
        UserError: the checkpoint folder cannot be written.
    """
    if config["model_file"] or not processes.is_first():
        yield
        return
    with lock.claim(
        _name(config),
        f"trains {config['model']} on {config['dataset']} with the same settings and writes "
        f"{run_id.path_of(config)}",
        "wait for it, or set another checkpoint_dir",
    ):
        yield


def taken(config: Any) -> bool:
    """Whether another process is training this run."""
    if not lock.file_of(_name(config)).is_file():
        return False
    try:
        with lock.claim(_name(config), "trains this run"):
            return False
    except lock.Claimed:
        return True


def _name(config: Any) -> Path:
    return run_id.path_of(config).with_suffix("")
