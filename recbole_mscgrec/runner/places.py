"""Checks, before anything is trained, that a run can write to all its folders, and removes files
that killed processes left there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from recbole_mscgrec.storage import files, processes
from recbole_mscgrec.storage.errors import UserError

_LEFT_OVER = re.compile(r".+\.(\d+)\.tmp")


def check_places(config: Any) -> None:
    """Make the folders that this run writes to, and check that files can be written there. Of
    several processes only the first one does this.

    Raises:
        UserError: a folder cannot be written; the message names its setting.
    """
    if not processes.is_first():
        return
    for key, folder in _folders(config):
        files.check_folder(folder, key)
        _remove_left_over(folder)
    for key in ("result_file", "per_user_file"):
        if config[key] and Path(config[key]).is_dir():
            raise UserError(f"{key} ({config[key]}) is a folder: name a file in it.")


def check_log_dir(config: Any) -> None:
    """Make the folders of RecBole's log. RecBole makes them too, but fails if another process makes
    them at the same time.

    Raises:
        UserError: they cannot be made.
    """
    files.check_folder(Path(config["log_dir"], "log", config["model"]), "log_dir")


def _folders(config: Any) -> Iterator[tuple[str, Path]]:
    """Setting and folder for every folder that this run writes to."""
    checkpoints = Path(config["checkpoint_dir"])
    pages = config["model"] == "MSCGRecTokenizer"
    trains = not config["model_file"]
    # RecBole's trainer makes the folder in any case.
    if trains or not checkpoints.is_dir() or (pages and not config["codes_dir"]):
        yield "checkpoint_dir", checkpoints
    # A saved model contains its codes; otherwise the stages that make them use the cache.
    if "cache_dir" in config and trains and not config["initial_model"]:
        yield "cache_dir", Path(config["cache_dir"])
    if pages and config["codes_dir"]:
        yield "codes_dir", Path(config["codes_dir"])
    for key in ("result_file", "per_user_file"):
        if config[key]:
            yield key, Path(config[key]).resolve().parent
    yield "log_dir", Path(config["log_dir"], "log_tensorboard")


def _remove_left_over(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: NAME.PID.tmp, see
    storage/files.py."""
    for file in folder.glob("*.tmp"):
        found = _LEFT_OVER.fullmatch(file.name)
        if found and not psutil.pid_exists(int(found[1])):
            with suppress(OSError):
                file.unlink()
