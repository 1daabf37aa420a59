"""RecBole writes log/ and log_tensorboard/ into the working directory: here, into `log_dir`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.utils import init_logger, utils

from recbole_mscgrec.storage import processes


def start_logger(config: Any) -> None:
    """RecBole's `init_logger`, with log/ in the folder `log_dir`. The handler keeps the absolute
    path, so the working directory is another one only while it is made.

    Of several processes the first one logs; the others would repeat it."""
    if not processes.is_first():
        logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()], force=True)
        warnings.simplefilter("ignore")
        return
    before = os.getcwd()
    os.chdir(config["log_dir"])
    try:
        init_logger(config)
    finally:
        os.chdir(before)


class _Nowhere:
    """Takes what a SummaryWriter takes, and writes nothing."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""

    add_hparams = add_scalar


@contextmanager
def tensorboard_in(folder: str | Path) -> Iterator[None]:
    """Within this block the trainers of RecBole write log_tensorboard/ into this folder. Of several
    processes the first one writes."""
    original = utils.SummaryWriter

    def writer(log_dir: str, *args: Any, **kwargs: Any) -> Any:
        if not processes.is_first():
            return _Nowhere()
        return original(os.path.join(folder, log_dir), *args, **kwargs)

    utils.SummaryWriter = writer
    try:
        yield
    finally:
        utils.SummaryWriter = original
