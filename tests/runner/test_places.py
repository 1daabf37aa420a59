"""All folders are tried before anything is trained, and left-over files are removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Trained
from tiny import protocol, settings

from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_dir", "blocked/saved"),
        ("cache_dir", "blocked/cache"),
        ("result_file", "blocked/result.json"),
        ("per_user_file", "blocked/ranks.npz"),
        ("log_dir", "blocked"),
    ],
)
def test_a_folder_that_cannot_be_written_is_found_first_and_its_key_named(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    """The folder is a file: not even root can write there."""
    (rule_folder / "blocked").write_text("")

    def never(*args: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(quick_start, "_data", never)
    with pytest.raises(UserError, match=rf"Cannot write .*blocked.*\({key}\).*[sS]et {key} to"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder, **{key: value}))


def test_a_result_file_that_is_a_folder_is_refused(rule_folder: Path) -> None:
    with pytest.raises(UserError, match=r"result_file \(data\) is a folder"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder, result_file="data"))


def test_logs_go_to_log_dir_and_nowhere_else(rule_folder: Path) -> None:
    run("Pop", "rule", config_dict=protocol(rule_folder, log_dir="logs"))
    assert list((rule_folder / "logs" / "log" / "Pop").glob("*.log"))
    assert list((rule_folder / "logs" / "log_tensorboard").rglob("events*"))
    assert not (rule_folder / "log").exists() and not (rule_folder / "log_tensorboard").exists()


def test_temporary_files_of_dead_processes_are_removed(rule_folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    places = [rule_folder / "saved", rule_folder / "cache"]
    for folder in places:
        folder.mkdir()
        for name in (f"a.pth.{ended.pid}.tmp", f"a.pth.{os.getpid()}.tmp", "mine.tmp"):
            (folder / name).write_text("")
    run("MSCGRec", "rule", config_dict=settings(rule_folder))
    for folder in places:
        left = sorted(file.name for file in folder.glob("*.tmp"))
        assert left == [f"a.pth.{os.getpid()}.tmp", "mine.tmp"]


def test_testing_a_saved_model_needs_no_cache_and_no_checkpoint_folder(
    rule_folder: Path, trained: Trained
) -> None:
    (rule_folder / "blocked").write_text("")
    chosen = {
        "data_path": str(rule_folder / "data"),
        "model_file": str(trained.model_file),
        "cache_dir": "blocked/cache",
    }
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"] == trained.result["test_result"]
