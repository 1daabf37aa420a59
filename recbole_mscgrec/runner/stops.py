"""Messages after Ctrl-C or a failed write: what is kept, and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recbole_mscgrec.storage.errors import CannotWrite, UserError


@contextmanager
def stopped(message: Callable[[], str]) -> Iterator[None]:
    """Within this block Ctrl-C and the error of a file that cannot be written get a message. A
    KeyboardInterrupt that has one already keeps it.

    Raises:
        KeyboardInterrupt: with the text that `message` returns.
        UserError: instead of CannotWrite, with its text and that of `message`.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        raise KeyboardInterrupt(message()) from None
    except CannotWrite as error:
        raise UserError(f"{error} {message()}") from error


def nothing_trained() -> str:
    """What is kept if a run stops before its model is made."""
    return "Stopped while the data were read. Repeat the command to start again."


def stages_kept(config: Any) -> str:
    """What is kept if a run stops while the model is made."""
    if "cache_dir" not in config:
        return "Stopped before the training began. Repeat the command to start again."
    return (
        "Stopped before the training of the sequence model began. Finished stages (text, images, "
        "SASRec, codes), and the finished epochs of a stage that is trained, are kept in "
        f"{config['cache_dir']}. Repeat the command to continue from there."
    )


def model_kept(config: Any, best_file: str) -> str:
    """What is kept if a run stops during the test."""
    if config["model_file"]:
        return f"Stopped during the test of {best_file}. Repeat the command to test it again."
    return (
        f"Stopped during the test. The trained model is kept in {best_file}. Repeat the command "
        f"with --resume=True, or with --model_file={best_file}, to test it."
    )
