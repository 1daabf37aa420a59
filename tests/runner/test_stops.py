"""Ctrl-C says what is kept and how to go on, wherever it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import best_file, settings

from recbole_mscgrec.features import collaborative
from recbole_mscgrec.plugin.trainer import MSCGRecTrainer
from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.runner.stops import stopped
from recbole_mscgrec.storage import checkpoint, files
from recbole_mscgrec.storage.errors import CannotWrite, UserError


def press(*args: Any, **kwargs: Any) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


def test_a_message_is_added_once() -> None:
    with pytest.raises(KeyboardInterrupt, match="inner"), stopped(lambda: "outer"):
        with stopped(lambda: "inner"):
            press()


def test_in_sasrec_the_finished_stages_are_named(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collaborative._Progress, "update", press)
    with pytest.raises(KeyboardInterrupt, match=r"are kept in .*cache.*Repeat the command"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_while_data_are_read(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_start, "create_dataset", press)
    with pytest.raises(KeyboardInterrupt, match="while the data were read"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_in_the_test_the_trained_model_is_named_and_can_be_tested(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, original = settings(rule_folder), MSCGRecTrainer.evaluate

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return press() if kwargs.get("load_best_model", True) else original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MSCGRecTrainer, "evaluate", evaluate)
        with pytest.raises(KeyboardInterrupt) as stop:
            run("MSCGRec", "rule", config_dict=chosen)
    file = best_file(rule_folder / "saved", "MSCGRec")
    assert f"kept in {file}" in str(stop.value) and "--resume=True" in str(stop.value)
    resumed = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    named = run("MSCGRec", "rule", config_dict={**chosen, "model_file": str(file)})
    assert resumed["test_result"] == named["test_result"]


def full(patch: pytest.MonkeyPatch, suffix: str, after: int) -> None:
    """A disk that is full for files of this ending, when some of them have been written."""
    written, fsync = [0], files.os.fsync

    def no_more(number: int) -> None:
        if files.os.readlink(f"/proc/self/fd/{number}").partition(".tmp")[0].find(suffix) > 0:
            written[0] += 1
            if written[0] > after:
                raise OSError(28, "No space left on device")
        fsync(number)

    patch.setattr(files.os, "fsync", no_more)


def test_what_is_kept_is_added_once_to_a_file_that_cannot_be_written() -> None:
    with pytest.raises(UserError) as error, stopped(lambda: "Outer."):
        with stopped(lambda: "Inner."):
            raise CannotWrite("Cannot write a.")
    assert str(error.value) == "Cannot write a. Inner."


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files")
@pytest.mark.parametrize("suffix", [".pth", ".last.pth"])
def test_a_full_disk_damages_no_checkpoint_and_the_training_goes_on(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """It is full after two files, in the second epoch."""
    chosen = settings(rule_folder, epochs=4, learning_rate=0.01)
    expected = run("MSCGRec", "rule", config_dict={**chosen, "checkpoint_dir": "elsewhere"})
    match = r"Cannot write .*No space left on device\. The old file is unchanged\..*"
    match += r"its last finished epoch is in .*last.pth.*--resume=True"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=match):
        full(patch, suffix, 2)
        run("MSCGRec", "rule", config_dict=chosen)
    kept = {file: checkpoint.load(file) for file in (rule_folder / "saved").glob("*.pth")}
    assert len(kept) == 2 and not list((rule_folder / "saved").glob("*.tmp"))
    result = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    assert result["test_result"] == expected["test_result"]


def test_a_result_file_that_cannot_be_written_costs_no_training(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(rule_folder, result_file="result.json")
    match = r"Cannot write result.json: No space.*The trained model is kept in .*--resume=True"

    def no_space(file: str, content: Any) -> None:
        raise files.cannot_write(Path(file), OSError(28, "No space left on device"))

    with monkeypatch.context() as patch, pytest.raises(UserError, match=match):
        patch.setattr(files, "write_json", no_space)
        patch.setattr("recbole_mscgrec.tokenizer.pipeline._report", lambda *_: None)
        run("MSCGRec", "rule", config_dict=chosen)
    monkeypatch.setattr(MSCGRecTrainer, "_train_epoch", press)
    assert run("MSCGRec", "rule", config_dict={**chosen, "resume": True})["test_result"]
    assert Path("result.json").is_file()
