"""RecBole writes log/ and log_tensorboard/ into the working directory: here, into `log_dir`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.utils import init_logger, utils


def start_logger(config: Any) -> None:
    """RecBole's `init_logger`, with log/ in the folder `log_dir`. The handler keeps the absolute
    path, so the working directory is another one only while it is made."""
    before = os.getcwd()
    os.chdir(config["log_dir"])
    try:
        init_logger(config)
    finally:
        os.chdir(before)


@contextmanager
def tensorboard_in(folder: str | Path) -> Iterator[None]:
    """Within this block the trainers of RecBole write log_tensorboard/ into this folder."""
    original = utils.SummaryWriter

    def writer(log_dir: str, *args: Any, **kwargs: Any) -> Any:
        return original(os.path.join(folder, log_dir), *args, **kwargs)

    utils.SummaryWriter = writer
    try:
        yield
    finally:
        utils.SummaryWriter = original
