"""Downloads of single files, which resume after an interruption."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_mscgrec.storage import lock
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.files import check_folder, read_json, write_json

_BLOCK = 1 << 20
_TRIES = 5  # at most; a try that receives nothing is the last one
_BEGINS = {".gz": b"\x1f\x8b", ".zip": b"PK"}


def fetch(address: str, file: Path, md5: str = "", timeout: float = 30) -> None:
    """Download a file, unless it exists. The bytes received so far stay in FILE.part, and the next
    call requests the rest.

    Args:
        md5: the checksum that the content must have; '' if none is known.
        timeout: longest wait for the next bytes, in seconds.

    Raises:
        UserError: the download failed. The text is a clause without the address, which the caller
            adds.
    """
    check_folder(file.parent, "the folder of downloads")
    with lock.claim(file, f"downloads {file}", wait=True):
        if not file.is_file():
            _fetch(address, file, md5, timeout)


def _fetch(address: str, file: Path, md5: str, timeout: float) -> None:
    part = file.with_name(f"{file.name}.part")
    for n in range(_TRIES):
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _more(address, part, timeout):
                break
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            raise UserError(f"the server answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = one_line(error)
        arrived = part.stat().st_size if part.is_file() else 0
        if arrived <= before or n == _TRIES - 1:
            raise UserError(f"{reason}; {arrived:,} bytes are kept, and the next try resumes there")
    _check(part, file, md5)
    os.replace(part, file)
    _notes(part).unlink()


def text_at(address: str, timeout: float = 30) -> str:
    """A short text, such as a checksum; '' if it cannot be fetched."""
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            content: bytes = answer.read(1 << 16)
    except (OSError, http.client.HTTPException):
        return ""
    return content.decode("utf-8", errors="replace")


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _more(address: str, part: Path, timeout: float) -> bool:
    """Fetch the missing bytes. Returns whether the file is complete now."""
    have, notes = _what_is_there(address, part)
    request = urllib.request.Request(address)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", notes["version"])
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # no bytes beyond those we have
            if have == notes["size"]:
                return True
            part.unlink()  # the file on the server has changed
            return _more(address, part, timeout)
        raise
    with answer:
        have = have if answer.status == 206 else 0
        rest = int(answer.headers.get("Content-Length") or 0)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        size = have + rest if rest else 0
        _check_free(part.parent, rest)
        write_json(_notes(part), {"address": address, "version": version, "size": size})
        with (
            part.open("ab" if have else "wb") as target,
            tqdm(
                total=size or None, initial=have, unit="B", unit_scale=True, desc="Download"
            ) as bar,
        ):
            while block := answer.read(_BLOCK):
                target.write(block)
                bar.update(len(block))
    return not size or part.stat().st_size == size


def _what_is_there(address: str, part: Path) -> tuple[int, dict[str, Any]]:
    """The number of bytes of an earlier download of the same version, and its notes; 0 if the
    server does not identify versions."""
    try:
        notes = read_json(_notes(part))
        if notes["address"] == address and notes["version"].strip() and part.is_file():
            if not notes["version"].startswith("W/"):  # a weak version may have other bytes
                return part.stat().st_size, notes
    except (UserError, TypeError, KeyError, AttributeError):
        pass
    return 0, {}


def _check_free(folder: Path, rest: int) -> None:
    free = shutil.disk_usage(folder).free
    if rest > free:
        raise UserError(f"it needs {rest:,} bytes, but {folder} has only {free:,} free")


def _check(part: Path, file: Path, md5: str) -> None:
    begin = _BEGINS.get(file.suffix, b"")
    with part.open("rb") as stream:
        fits = stream.read(len(begin)) == begin
        digest = hashlib.md5(usedforsecurity=False)
        stream.seek(0)
        while md5 and (block := stream.read(_BLOCK)):
            digest.update(block)
    if not fits or (md5 and digest.hexdigest() != md5.lower()):
        with suppress(OSError):
            part.unlink()
        what = "its MD5 checksum is wrong" if fits else f"it is not a {file.suffix} file"
        raise UserError(f"{what}; the download was removed")
