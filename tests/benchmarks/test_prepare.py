"""The made-up reviews of the benchmark are in the layout that `prepare` reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import recbole_mscgrec
from recbole_mscgrec.cli import main

SCRIPT = Path(recbole_mscgrec.__file__).resolve().parent.parent / "benchmarks" / "prepare.py"


def test_all_lines_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_prepare", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    raw = module.write_raw(tmp_path, 400, 20)
    place = ["--name=made", f"--data_path={tmp_path / 'data'}"]
    assert main(["prepare", "amazon-2023", *place, "--from", *map(str, raw)]) == 0
    assert "| read | 400 | 40 |" in capsys.readouterr().out
