"""One cell of a table: a run of one row with one seed, in its own process.

With its own process, peak memory and seconds belong to the cell, and a crash does not affect other
cells. A cell is an ordinary command with its settings in a YAML file, so its log shows how to
repeat it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import recbole_mscgrec
from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.train_rows import fingerprint_of_files
from recbole_mscgrec.experiments.variants import Row
from recbole_mscgrec.storage import checkpoint, digest, files, schema
from recbole_mscgrec.storage.errors import UserError

_SECONDS_TO_STOP = 10  # time for a cell to end by itself after Ctrl-C


class Cell(NamedTuple):
    """A row with a seed; `settings` are all settings of the run, including those of the row."""

    row: Row
    seed: int
    dataset: str
    settings: dict[str, Any]
    folder: Path
    ranked: bool = True  # whether its evaluation gives a rank per user

    def file(self, suffix: str) -> Path:
        """A file of this cell in the folder of the table."""
        return self.folder / f"{self.row.slug}_{self.seed}{suffix}"

    @property
    def result_file(self) -> Path:
        """The result file, which exists once the cell is finished."""
        return self.file(".json")

    @property
    def ranks_file(self) -> Path:
        """The file of ranks per user, which exists once the cell is finished."""
        return self.file(".npz")

    def all_settings(self) -> dict[str, Any]:
        """The settings, including seed and files of this cell."""
        mine = {"seed": self.seed, "result_file": str(self.result_file)}
        if self.ranked:
            mine["per_user_file"] = str(self.ranks_file)
        return {"checkpoint_dir": str(self.folder / "checkpoints"), **self.settings, **mine}

    def config(self) -> Config:
        """The Config of the cell, as in its own process. Raises UserError."""
        return Config(self.row.model, self.dataset, typed=self.all_settings())


def finished(cell: Cell) -> dict[str, Any] | None:
    """The result of a cell; None if it has none.

    Raises:
        UserError: the result was made with other settings or other data, or is not a result file.
    """
    if not cell.result_file.is_file():
        return None
    way_out = "Choose another --table_dir, or move this file away to run the cell again."
    result = read_result(cell.result_file, way_out)
    config = cell.config()
    stored, wanted = result.get("settings"), run_id.settings_of(config)
    if stored is None or (result["model"], result["dataset"]) != (cell.row.model, cell.dataset):
        raise UserError(f"{cell.result_file} is not a result of this table. {way_out}")
    version = result.get("made_by", {}).get("version")
    if version != recbole_mscgrec.__version__:
        raise UserError(
            f"{cell.result_file} was made by version {version} of this package, but this is "
            f"version {recbole_mscgrec.__version__}. {way_out}"
        )
    # Values that a preset changed do not count as different.
    asked = {**stored, **{key: wanted.get(key) for key in result.get("preset", {})}}
    differ = sorted(k for k in asked.keys() | wanted.keys() if asked.get(k) != wanted.get(k))
    if differ:
        had = ", ".join(f"{k} was {stored.get(k)!r} and is {wanted.get(k)!r}" for k in differ)
        raise UserError(f"{cell.result_file} was made with other settings: {had}. {way_out}")
    if result.get("data") not in (None, fingerprint_of_files(config)):
        raise UserError(
            f"{cell.result_file} was made with other data: the files of {cell.dataset} in "
            f"{config['data_path']}, or files that the settings name, have changed since. {way_out}"
        )
    return result


def read_result(file: Path, way_out: str = "") -> dict[str, Any]:
    """The content of a result file.

    Raises:
        UserError: it is not one, or has changed since it was written.
    """
    try:
        result = files.read_json(file)
    except UserError as error:
        raise UserError(f"{error} {way_out}".strip()) from error
    schema.check(result, schema.RESULT, file, "a result file", way_out)
    if digest.changed(result):
        raise UserError(
            f"{file} is not used: it differs from the checksum that was written with it. {way_out}"
        )
    result.pop(digest.KEY, None)
    return result


def run_cell(cell: Cell) -> str | None:
    """Train and test a cell. If it was interrupted, resume after its last finished epoch.

    Returns:
        None, or the error in one line.
    """
    last = run_id.last_of(cell.config())
    file, log = cell.file(".yaml"), cell.file(".log")
    # A file, because values on a command line would have to be parsed again.
    files.write_text(file, yaml.safe_dump(checkpoint.to_plain(cell.all_settings())))
    options = [f"--model={cell.row.model}", f"--dataset={cell.dataset}"]
    options += ["--config_files", str(file), *(["--resume=True"] if last.is_file() else [])]
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"python run_recbole_mscgrec.py {shlex.join(options)}\n")
        stream.flush()
        begin = stream.tell()
        status = _run([sys.executable, "-m", "recbole_mscgrec", *options], stream)
    if status == 0 and cell.result_file.is_file():
        last.unlink(missing_ok=True)  # needed only by unfinished cells
        return None
    return f"{_last_words(log, begin, status)} (log: {log})"


def _run(command: list[str], stream: Any) -> int:
    """Run a command with its output in `stream`. Returns its exit status. After Ctrl-C, the command
    is stopped before KeyboardInterrupt is raised."""
    package = str(Path(recbole_mscgrec.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            _stop(process)


def _stop(process: subprocess.Popen) -> None:
    """Stop a process: wait, because Ctrl-C in a terminal reaches it too; then send SIGTERM; then
    kill it.

    At most the epoch in progress is lost, since files are written completely or not at all.
    """
    # Our command line treats SIGTERM like Ctrl-C, even if SIGINT is ignored.
    for ask in (None, process.terminate, process.kill):
        if ask is not None:
            ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2 if ask is None else _SECONDS_TO_STOP)
            return
    getLogger().warning(f"process {process.pid} does not end.")


def _last_words(log: Path, begin: int, status: int) -> str:
    """The last line of the log of a failed cell, which contains its error."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(begin)
        lines = [line.strip() for line in stream if line.strip()]
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": out of memory?" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with status {status}"])[-1]
