"""One cell: its command, its files, what counts as finished, how it goes on, how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import interrupt, protocol, settings

from recbole_mscgrec import cli
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.parsing import read_settings
from recbole_mscgrec.experiments import job
from recbole_mscgrec.experiments.job import Cell, finished, read_result, run_cell
from recbole_mscgrec.experiments.variants import Row
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner import user_ranks


def cell(folder: Path, model: str = "Pop", seed: int = 3, **changes: Any) -> Cell:
    sizes = settings if model == "MSCGRec" else protocol
    chosen = sizes(folder, **changes)
    del chosen["checkpoint_dir"]
    return Cell(Row(model, model, {}), seed, "rule", chosen, folder / "table")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Cells run in this process; returns their command lines."""
    commands: list[list[str]] = []

    def run_here(command: list[str], stream: Any) -> int:
        commands.append(command[3:])
        status = cli.main(command[3:])
        if status == 130:  # a terminal's Ctrl-C reaches both processes
            raise KeyboardInterrupt
        return status

    monkeypatch.setattr(job, "_run", run_here)
    return commands


def test_a_cell_leaves_its_result_its_ranks_and_its_command(
    rule_folder: Path, here: list[list[str]]
) -> None:
    one = cell(rule_folder)
    assert finished(one) is None
    assert run_cell(one) is None
    result = finished(one)
    assert result is not None and (result["model"], result["seed"]) == ("Pop", 3)
    assert one.result_file == rule_folder / "table" / "Pop_3.json"
    found = user_ranks.load(one.ranks_file)
    assert found.metric("ndcg@10").mean() == pytest.approx(
        result["test_result"]["ndcg@10"], abs=1e-6
    )
    command = one.file(".log").read_text().splitlines()[0]
    settings_file = rule_folder / "table" / "Pop_3.yaml"
    assert command == (
        f"python run_recbole_mscgrec.py --model=Pop --dataset=rule --config_files {settings_file}"
    )
    assert read_settings(settings_file)["seed"] == 3


def test_every_kind_of_value_reaches_the_cell_as_it_is(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"text_columns": None, "modalities": ["text"], "learning_rate": 1e-5}
    changes |= {
        "vectors_file": {"text": "a.npz"},
        "exclude_seen": "all",
        "user_inter_num_interval": "[5,inf)",
        "cache_dir": "1/0",  # texts that stand for something else on a command line
        "text_encoder": "None",
        "image_backbone": "5",
    }
    one = cell(rule_folder, "MSCGRec", **changes)._replace(folder=rule_folder / "a table")
    assert one.config().external_config_dict.items() >= changes.items()
    seen = []

    def parse_only(command: list[str], stream: Any) -> int:
        known, chosen = cli.parse(command[3:])
        seen.append(Config(known.model, known.dataset, known.config_files, chosen))
        return 1

    monkeypatch.setattr(job, "_run", parse_only)
    run_cell(one)
    assert seen[0].external_config_dict == one.config().external_config_dict


def test_an_interrupted_cell_goes_on_and_equals_one_in_one_go(
    rule_folder: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cell(rule_folder, "MSCGRec", epochs=4)._replace(folder=rule_folder / "whole")
    assert run_cell(whole) is None
    one = cell(rule_folder, "MSCGRec", epochs=4)
    with monkeypatch.context() as patch:
        interrupt(patch, MSCGRec, 8)
        with pytest.raises(KeyboardInterrupt):
            run_cell(one)
    assert finished(one) is None
    (last,) = (one.folder / "checkpoints").glob("*.last.pth")
    spent = torch.load(last, weights_only=True)["seconds"]
    assert run_cell(one) is None
    assert ["--resume=True" in command for command in here] == [False, False, True]
    result, expected = finished(one), finished(whole)
    assert result and expected and result["test_result"] == expected["test_result"]
    for stage in ("data", "train"):  # those of the interrupted run count as well
        assert result["seconds"][stage] > spent[stage] > 0
    assert not last.exists()  # of no use any more


def test_results_of_other_settings_are_not_taken_for_this_cell(
    rule_folder: Path, here: list[list[str]]
) -> None:
    run_cell(cell(rule_folder))
    with pytest.raises(ValueError, match="other settings: epochs was 1 and is 2.*--table_dir"):
        finished(cell(rule_folder, epochs=2))
    (rule_folder / "data").rename(rule_folder / "elsewhere")
    moved = {"data_path": str(rule_folder / "elsewhere"), "show_progress": True}
    assert finished(cell(rule_folder, **moved))


def test_results_of_other_data_are_not_taken_for_this_cell(
    rule_folder: Path, here: list[list[str]]
) -> None:
    """Not even of data that differ in nothing but a text or a test target."""
    one = cell(rule_folder)
    run_cell(one)
    assert finished(one)
    file = rule_folder / "data/rule/rule.item"
    file.write_text(file.read_text() + "i99\tnew\n")
    with pytest.raises(ValueError, match="made with other data: the files of rule"):
        finished(one)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "Pop"}', "3"])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x_1.json").write_text(text)
    with pytest.raises(ValueError, match="x_1.json is not (a result file|JSON)"):
        read_result(tmp_path / "x_1.json")


def test_a_result_without_settings_is_not_of_this_table(
    rule_folder: Path, here: list[list[str]]
) -> None:
    one = cell(rule_folder)
    run_cell(one)
    content = json.loads(one.result_file.read_text())
    del content["settings"]
    one.result_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it differs from the checksum that was written with it"):
        finished(one)
    del content["digest"]
    one.result_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a result of this table. Choose another --table_dir"):
        finished(one)


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (
            "INFO starts\nerror: codebook_size (99) is too large\n",
            "codebook_size (99) is too large",
        ),
        ("Traceback\n  File x\nRuntimeError: no memory\n\n", "RuntimeError: no memory"),
        ("", "ended with status 1"),
    ],
)
def test_a_failed_cell_says_why_in_one_line(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, output: str, error: str
) -> None:
    """Also where the log holds an earlier, other failure."""
    one = cell(rule_folder, "MSCGRec")
    one.folder.mkdir()
    one.file(".log").write_text("error: of another day\n")

    def fail(command: list[str], stream: Any) -> int:
        stream.write(output)
        return 1

    monkeypatch.setattr(job, "_run", fail)
    assert run_cell(one) == f"{error} (log: {one.file('.log')})"


def test_a_cell_that_is_killed_says_so(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_run", lambda command, stream: -signal.SIGKILL)
    assert (run_cell(cell(rule_folder)) or "").startswith("ended by SIGKILL: out of memory?")
    monkeypatch.setattr(job, "_run", lambda command, stream: 7)
    assert (run_cell(cell(rule_folder)) or "").startswith("ended with status 7")


def test_ctrl_c_ends_the_cell_before_it_ends_us(tmp_path: Path) -> None:
    """SIGINT to this process alone: the other one is told, and has the time to end by itself."""
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "pathlib.Path('began').touch()\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: pathlib.Path('ended').touch()\n"
    )

    def press() -> None:
        while not Path("began").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background
    try:
        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            job._run([sys.executable, "-c", code], subprocess.DEVNULL)
        presser.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path("ended").exists()
