"""`--nproc=2` on the command line. The processes start from nothing, which takes seconds."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from tiny import arguments, protocol

from recbole_mscgrec.cli import main
from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.launch import _status_of, asked_for
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.storage.errors import UserError


@pytest.fixture(autouse=True)
def _quiet_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("nproc: 2\n", encoding="utf-8")
    assert asked_for([], {}) == 1
    assert asked_for([str(file)], {}) == 2
    assert asked_for([str(file)], {"nproc": "3"}) == 3
    for wrong in ("0", "two", "1.5", "True"):
        with pytest.raises(UserError, match="nproc .* must be a whole number from 1 on"):
            asked_for([], {"nproc": wrong})
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert asked_for([str(file)], {}) == 1  # this is one of them


def test_what_runs_in_one_process(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--model_list=Pop,BPR", "--nproc=2"]) == 1
    assert "A table of runs runs in one process, not in 2" in capfd.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["export", "--help"]) == 1
    assert "export runs in one process, not in 2" in capfd.readouterr().err


@pytest.mark.slow
def test_an_error_is_told_once(rule_folder: Path, capfd: pytest.CaptureFixture) -> None:
    """All processes find it; one of them tells it."""
    chosen = protocol(rule_folder, nproc=2, eval_args="{'mode': 'labeled'}")
    assert main(["--model=SASRec", "--dataset=rule", *arguments(chosen)]) == 1
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "eval_args mode labeled" in told[0]


@pytest.mark.parametrize(
    "ends, told",
    [
        ({0: -15, 1: 1}, 1),  # 1 has told its error; 0 was ended by torch
        ({0: 3, 1: 1}, 1),
        ({0: -15, 1: -9}, "Process 1 of 2 was killed by SIGKILL"),
        ({0: 3, 1: -15}, "Another of the processes .* was killed"),
    ],
)
def test_the_status_of_the_first_failure(ends: dict[int, int], told: int | str) -> None:
    if isinstance(told, int):
        assert _status_of(ends, 2) == told
        return
    with pytest.raises(UserError, match=told):
        _status_of(ends, 2)


def kill_when(file: Path, rank: int) -> threading.Thread:
    """Kill the process of this rank as soon as the file exists."""

    def wait_and_kill() -> None:
        while not file.is_file():
            time.sleep(0.05)
        for child in psutil.Process().children(recursive=True):
            if child.environ().get("RANK") == str(rank):
                child.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_training_can_resume(
    rule_folder: Path, capfd: pytest.CaptureFixture
) -> None:
    chosen = protocol(rule_folder, epochs=20, stopping_step=20)
    last = run_id.last_of(Config("SASRec", "rule", config_dict=chosen))
    kill_when(last, rank=1)
    assert main(["--model=SASRec", "--dataset=rule", *arguments(chosen), "--nproc=2"]) == 1
    (told,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told.startswith("error: Process 1 of 2 was killed by SIGKILL")
    assert not [c for c in psutil.Process().children() if c.environ().get("RANK")]
    state = checkpoint.load(last)
    resumed = run("SASRec", "rule", config_dict={**chosen, "resume": True})
    assert resumed["seconds"]["train"] > state["seconds"]["train"] and state["epoch"] < 19
