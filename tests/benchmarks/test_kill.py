"""The benchmark of killed runs: it resumes them, and it tells equal files from others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def kill(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("kill")


def files(folder: Path, change: Callable[[dict[str, Any]], object] = lambda state: None) -> Path:
    """What a run leaves that `differences` compares, with a change of the checkpoint."""
    (folder / "saved").mkdir(parents=True)
    result = {"test_result": {"a": 1.0}, "best_valid_result": {}, "code_health": None}
    (folder / "result.json").write_text(json.dumps(result))
    np.savez(folder / "ranks.npz", ranks=np.arange(3))
    state: dict[str, Any] = {"state_dict": {"w": torch.ones(2)}, "epoch": 1, "seconds": {"t": 1}}
    state["random"] = {"python": [3, [1, 2]]}
    change(state)
    torch.save(state, folder / "saved" / "m.last.pth")
    return folder


def test_files_that_measure_the_same_are_equal(kill: ModuleType, tmp_path: Path) -> None:
    one = files(tmp_path / "a")
    two = files(tmp_path / "b", lambda state: state.update(seconds={"t": 2}))
    assert kill.differences(one, two) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda state: state["state_dict"]["w"].add_(1e-6), "state_dict.w of m.last.pth"),
        (lambda state: state.update(epoch=2), "epoch of m.last.pth"),
        (lambda state: state["random"].update(python=[3, [1, 3]]), "random.python.1.1 of m.last"),
        (lambda state: state.pop("random"), "random of m.last.pth"),
    ],
)
def test_a_difference_is_named(
    kill: ModuleType, tmp_path: Path, change: Callable[[dict[str, Any]], object], name: str
) -> None:
    (found,) = kill.differences(files(tmp_path / "a"), files(tmp_path / "b", change))
    assert found.startswith(name)


def test_other_metrics_ranks_and_missing_files_are_named(kill: ModuleType, tmp_path: Path) -> None:
    one, two = files(tmp_path / "a"), files(tmp_path / "b")
    (two / "saved" / "m.last.pth").unlink()
    np.savez(two / "ranks.npz", ranks=np.zeros(3))
    (two / "result.json").write_text(
        (two / "result.json").read_text().replace('{"a": 1.0}', '{"a": 2.0}')
    )
    found = kill.differences(one, two)
    assert found[0].startswith("test_result {'a': 1.0} and {'a': 2.0}")
    assert found[1:] == ["ranks of ranks.npz", "m.last.pth is missing"]


@pytest.mark.slow
def test_killed_runs_of_a_toy_go_on_and_end_equal(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    script("abuse").write_toy(tmp_path / "data" / "toy")
    command = [sys.executable, script("kill").__file__, "--dataset=toy"]
    command += [f"--data_path={tmp_path / 'data'}", "--item_inter_num_interval=[0,inf)"]
    command += ["--user_inter_num_interval=[0,inf)", "--model=SASRec", "--only=checkpoints"]
    done = subprocess.run([*command, "--kills-per-stage=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| 2 | 2 | 0 | 0 |" in done.stdout
