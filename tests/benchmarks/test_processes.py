"""The benchmark of several processes, without the runs that it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOG = """\x1b[1;32mepoch 0 training\x1b[0m [\x1b[1;34mtime\x1b[0m: 30.00s, train loss: 1.0]
epoch 0 evaluating [time: 9.00s, valid_score: 0.1]
epoch 1 training [time: 10.25s, train loss: 1.0]
epoch 1 evaluating [time: 2.50s, valid_score: 0.1]
"""


@pytest.fixture
def processes(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("processes")


def test_the_table(
    processes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    """The codes are made once and then reused. Each row has the seconds of a later epoch."""
    commands: list[tuple[dict[str, str], Any]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
        given = dict(part[2:].split("=", 1) for part in command if "=" in part)
        commands.append((given, env.get("OMP_NUM_THREADS")))
        if "result_file" in given:
            Path(given["result_file"]).write_text('{"test_result": {"recall@10": 0.5}}')
        return subprocess.CompletedProcess(command, 0, stdout=LOG, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    file = tmp_path / "found.json"
    arguments = ["--dataset=ml-1m", "--data_path=here", "--epochs=2", f"--json={file}", "--seed=3"]
    monkeypatch.setattr(sys, "argv", ["processes.py", *arguments])
    processes.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:2] + line.split(" | ")[3:] for line in rows[1:]] == [
        ["| 1", "1", "10.2", "2.5 |"],
        ["| 2", "1", "10.2", "2.5 |"],
        ["| 1", "2", "10.2", "2.5 |"],
    ]
    (codes, _), *runs = commands
    assert codes["model"] == "MSCGRecTokenizer" and "nproc" not in codes
    assert [(given["nproc"], threads) for given, threads in runs] == [
        ("1", "1"),
        ("2", "1"),
        ("1", "2"),
    ]
    for given, _ in runs:
        assert (given["model"], given["dataset"], given["seed"]) == ("MSCGRec", "ml-1m", "3")
        assert given["cache_dir"] == codes["cache_dir"]
    assert len({given["checkpoint_dir"] for given, _ in commands}) == 4
    assert [one["epoch_seconds"] for one in json.loads(file.read_text())] == [10.25] * 3


def test_a_run_that_fails_ends_the_benchmark(
    processes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="error: no such data set")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(sys, "argv", ["processes.py"])
    with pytest.raises(SystemExit, match="no such data set"):
        processes.main()
