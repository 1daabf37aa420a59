"""RecBole's logs in a folder of our choice."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from recbole.utils import utils
from tiny import largest_file, protocol

from recbole_mscgrec.compat.logs import start_logger, tensorboard_in
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.storage.errors import CannotWrite


def test_tensorboard_is_written_under_the_folder_within_the_block_only(tmp_path: Path) -> None:
    before = utils.SummaryWriter
    with tensorboard_in("there"):
        utils.SummaryWriter(os.path.join("log_tensorboard", "run")).close()
    assert list(Path("there/log_tensorboard/run").glob("events*"))
    assert not Path("log_tensorboard").exists() and utils.SummaryWriter is before


def test_a_log_that_cannot_be_written_is_one_error(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's, beside which none is added
    config = Config("Pop", "rule", config_dict=protocol(rule_folder, log_dir=str(rule_folder)))
    start_logger(config)
    match = r"Cannot write .*log.Pop.*\.log: File too large.*set log_dir to another folder"
    with largest_file(5_000), pytest.raises(CannotWrite, match=match):
        logging.getLogger().info("x" * 10_000)
    logging.getLogger().info("further lines go to the screen alone")
    assert "Logging error" not in capsys.readouterr().err


def test_a_tensorboard_that_cannot_be_written_is_one_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its thread meets the error; the block ends with it at the latest."""
    match = r"Cannot write .*there.run: File too large.*set log_dir to another folder"
    with pytest.raises(CannotWrite, match=match), tensorboard_in(tmp_path):
        writer = utils.SummaryWriter(os.path.join("there", "run"))
        with largest_file(5_000):
            for n in range(200):
                writer.add_scalar("loss", 0.5, n)
            writer.flush()
    assert "Traceback" not in capfd.readouterr().err
