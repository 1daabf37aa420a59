"""RecBole's saved data sets and loaders are not read and not written.

They are pickles, which can run any code when they are loaded, and they do not know when the .inter
file they were made of has changed. RecBole takes one from `checkpoint_dir` unasked. Every run reads
the atomic files instead.
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
    """In place of a saved data set: one that RecBole takes for another's and makes anew."""
    getLogger().warning(f"{stream.name} is a pickle of saved data and is not read.")
    return SimpleNamespace(config=_Unlike())


def _no_loaders(config: Any) -> None:
    """In place of saved loaders."""


def _refused(original: Any) -> Any:
    @wraps(original)
    def save(*args: Any, **options: Any) -> None:
        raise UserError("Saved data are pickles, which this project neither writes nor reads.")

    return save
