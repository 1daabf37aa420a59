"""Atomic file writes: a file is written completely or not at all, even if the program is
stopped."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from recbole_mscgrec.storage.errors import CannotWrite, UserError, one_line

_PROBE = bytes(1 << 12)  # not empty, because an empty file can be created on a full disk
# A disk refuses to write: it is full, over a quota or size limit, read-only, or damaged.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def check_folder(folder: Path, setting: str) -> None:
    """Create a folder if it does not exist, and check that files can be written in it.

    Args:
        setting: the setting that names the folder, for the error.

    Raises:
        UserError: the folder cannot be created, or no file can be written in it.
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
    """Yield a temporary path beside `file` to write to; at the end of the block it replaces `file`.
    Even after a power failure, either the old file or the new one exists.

    Args:
        setting: the setting that names the folder, for the error.

    Raises:
        CannotWrite: the file cannot be written, with the reason, what is kept and what to do.
    """
    file = Path(file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        usual = temporary.stat().st_mode & 0o777  # safetensors' files are readable by us only
        yield temporary
        temporary.chmod(usual)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = error if isinstance(error, OSError) else _refusal(temporary) or error
        raise cannot_write(file, reason, setting, file.is_file()) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _refusal(file: Path) -> OSError | None:
    """Why the disk refuses to write more of a file; None if it does not. On a full disk, torch.save
    reports only that it wrote fewer bytes than expected."""
    try:
        with file.open("ab") as stream:
            stream.write(bytes(1 << 16))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return None


def cannot_write(
    file: Path, reason: Exception, setting: str = "", is_there: bool = False
) -> CannotWrite:
    """The error for a file that cannot be written. `is_there`: an earlier version of it exists."""
    what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    kept = " The old file is unchanged." if is_there else ""
    instead = f"set {setting} to another folder" if setting else "name another folder"
    return CannotWrite(
        f"Cannot write {file}: {one_line(what)}.{kept} Free space there, make it writable, or "
        f"{instead}."
    )


def refuses(error: BaseException) -> bool:
    """Whether the error means that a disk refuses to write."""
    return isinstance(error, OSError) and error.errno in _REFUSALS


class Told:
    """Wraps the result of `make`: an OSError of `make`, or of a method of the result, is raised as
    CannotWrite.

    Args:
        path: the folder or file that it writes.
        setting: the setting that names the place, for the error.
    """

    def __init__(self, make: Callable[[], Any], path: str | Path, setting: str) -> None:
        self._path, self._setting = Path(path), setting
        self._made = self._call(make)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._made, name)
        return lambda *args, **kwargs: self._call(method, *args, **kwargs)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            raise cannot_write(self._path, error, self._setting) from error


def write_text(file: str | Path, text: str) -> None:
    """Write a UTF-8 text file. Raises UserError."""
    with written_whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(file: str | Path, content: Any) -> None:
    """Write a JSON file. Raises UserError."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: str | Path, pairs: bool = False) -> Any:
    """The content of a JSON file. With `pairs`, objects are tuples of pairs, so that repeated names
    are not lost.

    Raises:
        UserError: the file cannot be read, or is not JSON.
    """
    hook = tuple if pairs else None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"), object_pairs_hook=hook)
    except RecursionError as error:
        raise UserError(f"{file} is not used: its brackets are nested too deeply.") from error
    except ValueError as error:  # includes a wrong encoding, and numbers with 10,000 digits
        raise UserError(f"{file} is not JSON ({one_line(error)}).") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}).") from error


def read_lines(file: Path, option: str, may_be_empty: bool = False) -> list[str]:
    """The lines of a file of item tokens that are not blank, without a byte order mark (BOM).

    Raises:
        UserError: the file cannot be read, or has no such line; the message names `option`.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} ({file}) cannot be read: {one_line(error)}.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found and not may_be_empty:
        raise UserError(f"{file} ({option}) names no item: write one token per line.")
    return found


def set_aside(file: str | Path, why: str, instead: str = "a new one is made") -> None:
    """Rename a file that cannot be used to NAME.unusable, and log a warning.

    Args:
        why: the reason, for the warning.
        instead: what happens next, for the warning.
    """
    file = Path(file)
    why = why.rstrip(".").replace(f"{file} ", "it ", 1)
    kept = file.with_name(f"{file.name}.unusable")
    try:
        os.replace(file, kept)
        where = f"it is kept as {kept.name}"
    except OSError as error:  # the folder is not writable; writing the new file will raise
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


def page_of(package: str, template: str, page: dict[str, Any]) -> str:
    """A self-contained HTML page, from a template in `templates/` of a package. All values of
    `page` are escaped."""
    import jinja2  # not at the top: serving uses this module without jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=page)
