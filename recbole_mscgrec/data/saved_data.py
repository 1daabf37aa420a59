"""Keeps RecBole from reading and writing saved data sets and loaders.

They are pickles, which can run any code when they are loaded, and they become stale unnoticed when
the .inter file changes. RecBole loads one from `checkpoint_dir` unasked. Every run reads the atomic
files instead.
"""

from __future__ import annotations

from functools import wraps
from logging import getLogger
from types import SimpleNamespace
from typing import Any

from recbole_mscgrec.storage.errors import UserError

SETTINGS = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")


def check(config: Any) -> None:
    """Raise UserError for a setting that saves data or names saved data."""
    for key in SETTINGS:
        if config[key]:
            raise UserError(
                f"{key} ({config[key]}): saved data are pickles, which can run code when they are "
                "loaded and do not follow changes of the .inter file. Leave it out: every run "
                "reads the atomic files."
            )


def install() -> None:
    """Keep RecBole from reading and writing pickles of data."""
    from recbole.data import utils
    from recbole.data.dataset.dataset import Dataset

    if isinstance(utils.pickle, SimpleNamespace):
        return
    utils.pickle = SimpleNamespace(load=_unread)
    utils.load_split_dataloaders = _no_loaders
    for owner, name in ((Dataset, "save"), (utils, "save_split_dataloaders")):
        setattr(owner, name, _refused(getattr(owner, name)))


class _Unlike(dict):
    """Settings that differ from all others."""

    def __missing__(self, key: str) -> object:
        return object()


def _unread(stream: Any) -> SimpleNamespace:
    """Stands in for a saved data set. Its settings match no run, so RecBole builds a new one."""
    getLogger().warning(f"{stream.name} is a pickle of saved data and is not read.")
    return SimpleNamespace(config=_Unlike())


def _no_loaders(config: Any) -> None:
    """Stands in for saved loaders: there are none."""


def _refused(original: Any) -> Any:
    @wraps(original)
    def save(*args: Any, **options: Any) -> None:
        raise UserError("Saved data are pickles, which this project neither writes nor reads.")

    return save
