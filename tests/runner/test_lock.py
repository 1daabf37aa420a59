"""Two processes do not train the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import best_file, protocol

from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.lock import alone, taken
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError

_HOLD = """
import sys
from pathlib import Path
from recbole_mscgrec.storage import lock
with lock.claim(Path(sys.argv[1]), "trains"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(config: Config) -> Iterator[subprocess.Popen]:
    """Another process has the run's lock until the block ends."""
    path = run_id.path_of(config).with_suffix("")
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_run_that_another_process_trains_is_refused_by_name(rule_folder: Path) -> None:
    chosen = protocol(rule_folder)
    config = Config("Pop", "rule", config_dict=chosen)
    assert not taken(config)
    with held_elsewhere(config):
        assert taken(config)
        with pytest.raises(
            ValueError,
            match=r"Another process trains Pop on rule.*: process \d+ on .*checkpoint_dir",
        ):
            run("Pop", "rule", config_dict=chosen)
        run("Pop", "rule", config_dict={**chosen, "seed": 7})  # other settings: another run


def test_the_lock_of_a_killed_process_is_free(rule_folder: Path) -> None:
    config = Config("Pop", "rule", config_dict=protocol(rule_folder))
    with held_elsewhere(config) as process:
        process.kill()
        process.wait()
        assert not taken(config)
        with alone(config):
            pass


def test_a_saved_model_is_evaluated_while_it_is_trained(rule_folder: Path) -> None:
    chosen = protocol(rule_folder)
    expected = run("Pop", "rule", config_dict=chosen)
    saved = str(best_file(rule_folder / "saved", "Pop"))
    with held_elsewhere(Config("Pop", "rule", config_dict=chosen)):
        result = run("Pop", "rule", config_dict={**chosen, "model_file": saved})
    assert result["test_result"] == expected["test_result"]


def test_a_folder_that_cannot_be_written_is_named(rule_folder: Path) -> None:
    (rule_folder / "file").write_text("")
    folder = str(rule_folder / "file" / "saved")
    config = Config("Pop", "rule", config_dict=protocol(rule_folder, checkpoint_dir=folder))
    with (
        pytest.raises(UserError, match=r"Cannot write .*file/saved.*trains Pop"),
        alone(config),
    ):
        pass
