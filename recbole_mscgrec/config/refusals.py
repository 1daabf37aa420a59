"""Turns RecBole's own errors about settings and data into UserErrors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import recbole

import recbole_mscgrec
from recbole_mscgrec.storage.errors import UserError

_OURS = Path(recbole_mscgrec.__file__).resolve().parent
_THEIRS = Path(recbole.__file__).resolve().parent
# Import name of a package -> its name for pip, where they differ.
_PIP = {
    "faiss": "faiss-cpu",
    "torch_scatter": "torch-scatter",
    "kmeans_pytorch": "kmeans-pytorch",
    **dict.fromkeys(("lightgbm", "xgboost"), "lightgbm xgboost"),  # RecBole imports them together
}
_KINDS = (
    *(NotImplementedError, TypeError, RuntimeError, ValueError, KeyError, OSError),
    AssertionError,  # ConvNCF and others check settings with assert
)


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """Within this block, which is left before training, exceptions raised by RecBole are treated as
    errors in settings or data. Exceptions raised by our own code are not changed.

    Raises:
        UserError: instead of RecBole's exception, which is its cause.
    """
    try:
        yield
    except UserError:
        raise
    except _KINDS as error:
        if not _is_recboles(error):
            raise
        text = str(error) or "no reason given"
        raise UserError(
            f"RecBole refuses this ({type(error).__name__}: {text}). --debug shows where."
        ) from error


@contextmanager
def ends_told_to_the_user(model: str) -> Iterator[None]:
    """Within this block, a missing package and RecBole's calls of `exit` are reported as errors of
    the user, at any stage of a run.

    Raises:
        UserError: instead of ModuleNotFoundError and SystemExit.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or str(error)).partition(".")[0]
        raise UserError(
            f"{model} needs the package {name}, which is not installed: pip install "
            f"{_PIP.get(name, name)}"
        ) from error
    except SystemExit as error:
        if not _is_recboles(error):
            raise
        raise UserError(
            f"RecBole ended this run of {model}; what it printed before says why."
        ) from error


def check_wandb(config: Any) -> None:
    """Check that wandb is installed if it is needed. RecBole imports it only when the model is
    created, and raises an ImportError that does not name the package.

    Raises:
        UserError: `log_wandb` is on, and wandb is not installed.
    """
    spec = find_spec("wandb") if config["log_wandb"] else None
    # A folder `wandb` without code, such as the one that wandb logs to, has no origin.
    if config["log_wandb"] and (spec is None or spec.origin is None):
        raise UserError(
            "log_wandb needs the package wandb, which is not installed: pip install wandb, or "
            "leave log_wandb out."
        )


def _is_recboles(error: BaseException) -> bool:
    """Whether the innermost of our functions in the traceback had called RecBole."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    last = max((n for n, file in enumerate(files) if file.is_relative_to(_OURS)), default=-1)
    return any(file.is_relative_to(_THEIRS) for file in files[last + 1 :])
