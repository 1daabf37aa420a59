"""The made-up reviews of the benchmark are in the layout that `prepare` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from recbole_mscgrec.cli import main


def test_all_lines_are_read(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = script("prepare").write_raw(tmp_path, 400, 20)
    place = ["--name=made", f"--data_path={tmp_path / 'data'}"]
    assert main(["prepare", "amazon-2023", *place, "--from", *map(str, raw)]) == 0
    assert "| read | 400 | 40 |" in capsys.readouterr().out
