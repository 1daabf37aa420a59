"""RecBole's logs in a folder of our choice."""

from __future__ import annotations

import os
from pathlib import Path

from recbole.utils import utils

from recbole_mscgrec.compat.logs import tensorboard_in


def test_tensorboard_is_written_under_the_folder_within_the_block_only(tmp_path: Path) -> None:
    before = utils.SummaryWriter
    with tensorboard_in("there"):
        utils.SummaryWriter(os.path.join("log_tensorboard", "run")).close()
    assert list(Path("there/log_tensorboard/run").glob("events*"))
    assert not Path("log_tensorboard").exists() and utils.SummaryWriter is before
