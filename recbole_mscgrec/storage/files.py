"""Files that are written completely or not at all, even if the program is stopped."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_mscgrec.storage.errors import UserError, one_line

_PROBE = bytes(1 << 12)  # on a full disk an empty file can still be made


def check_folder(folder: Path, setting: str) -> None:
    """Make a folder if it is not there, and check that files can be written in it.

    Raises:
        UserError: they cannot, with the setting that names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({setting}): {error.strerror or error}. Make it writable, "
            f"free space there, or set {setting} to another place."
        ) from error


@contextmanager
def written_whole(file: str | Path, setting: str = "") -> Iterator[Path]:
    """Yields a temporary path beside `file` to write to; at the end of the block it replaces
    `file`. Even after a power cut there is either the old file or the new one.

    Args:
        setting: the setting that names the folder, for the error.

    Raises:
        UserError: the file cannot be written, with the reason and what to do.
    """
    file = Path(file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        usual = temporary.stat().st_mode & 0o777  # safetensors makes files that only we can read
        yield temporary
        temporary.chmod(usual)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        instead = f"set {setting} to another folder" if setting else "name another folder"
        raise UserError(f"Cannot write {file}: {error}. Free space there or {instead}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(file: str | Path, text: str) -> None:
    """Write a UTF-8 text file. Raises UserError."""
    with written_whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(file: str | Path, content: Any) -> None:
    """Write a JSON file. Raises UserError."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: str | Path, pairs: bool = False) -> Any:
    """The content of a JSON file. With `pairs`, objects are tuples of pairs, which show names that
    occur twice.

    Raises:
        UserError: the file cannot be read, or is not JSON.
    """
    hook = tuple if pairs else None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"), object_pairs_hook=hook)
    except RecursionError as error:
        raise UserError(f"{file} is not used: its brackets are nested too deeply.") from error
    except ValueError as error:  # also of a wrong encoding, and of numbers of 10,000 digits
        raise UserError(f"{file} is not JSON ({one_line(error)}).") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}).") from error


def set_aside(file: str | Path, why: str, instead: str = "it is made again") -> None:
    """Rename a file that cannot be used to NAME.unusable, with a warning that says why."""
    file = Path(file)
    why = why.rstrip(".").replace(f"{file} ", "it ", 1)
    kept = file.with_name(f"{file.name}.unusable")
    try:
        os.replace(file, kept)
        where = f"it is kept as {kept.name}"
    except OSError as error:  # of a folder that cannot be written; writing the new file says so
        where = f"it cannot be renamed ({error})"
    getLogger().warning(f"{file} is not used, because {why}; {where}, and {instead}.")


def read_csv(file: str | Path) -> list[dict[str, str]]:
    """The rows of a UTF-8 CSV file with a header, each a dict of its cells."""
    with Path(file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_csv(file: str | Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    """Write a UTF-8 CSV file with a header. Cells that a row lacks are empty. Raises UserError."""
    with written_whole(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
