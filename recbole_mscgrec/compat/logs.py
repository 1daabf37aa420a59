"""Makes RecBole write log/ and log_tensorboard/ into `log_dir`, not into the working directory."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from recbole.utils import init_logger, utils

from recbole_mscgrec.storage import files, processes


def start_logger(config: Any) -> None:
    """Call RecBole's `init_logger`, with log/ in the folder `log_dir`. The working directory is
    changed only for this call: the handler keeps the absolute path.

    Of several processes only the first one logs, because the others would repeat it.

    Raises:
        CannotWrite: the log file cannot be made. Later, a call that logs a line raises it if the
            line cannot be written.
    """
    if not processes.is_first():
        logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()], force=True)
        warnings.simplefilter("ignore")
        return
    before = os.getcwd()
    os.chdir(config["log_dir"])
    try:
        files.Told(lambda: init_logger(config), Path(config["log_dir"], "log"), "log_dir")
    finally:
        os.chdir(before)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_raise, handler)  # type: ignore[method-assign]


def _raise(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Raise CannotWrite, where logging would print a traceback for each line that it cannot
    write."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
        return
    logging.getLogger().removeHandler(handler)
    raise files.cannot_write(Path(handler.baseFilename), error, "log_dir") from error


class _Nowhere:
    """A SummaryWriter that writes nothing."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""

    add_hparams = add_scalar


@contextmanager
def tensorboard_in(folder: str | Path) -> Iterator[None]:
    """Within this block RecBole's trainers write log_tensorboard/ into this folder. Of several
    processes only the first one writes."""
    original, hook = utils.SummaryWriter, threading.excepthook
    made: list[files.Told] = []

    def writer(log_dir: str, *args: Any, **kwargs: Any) -> Any:
        if not processes.is_first():
            return _Nowhere()
        place = os.path.join(folder, log_dir)
        made.append(files.Told(lambda: original(place, *args, **kwargs), place, "log_dir"))
        return made[-1]

    def heard(args: Any) -> None:
        """Ignore an OSError of the writer's thread: the writer's next call raises it."""
        if not isinstance(args.exc_value, OSError):
            hook(args)

    utils.SummaryWriter, threading.excepthook = writer, heard
    try:
        yield
        for each in made:
            each.flush()
    finally:
        utils.SummaryWriter, threading.excepthook = original, hook
