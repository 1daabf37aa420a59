"""Reads NumPy files safely: the header is checked against the file before memory is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mscgrec.storage.errors import UserError, one_line

_LONGEST_NAME = 1 << 12  # bytes of a string in an array


def read_npy(file: str | Path, n_rows: int | None = None) -> np.ndarray:
    """The array of a .npy file. With `n_rows`, it must have that many rows.

    Raises:
        UserError: the file is damaged, holds Python objects, or its header does not match its
            content.
    """
    try:
        size = Path(file).stat().st_size
        with open(file, "rb") as stream:
            _check_header(stream, size, n_rows)
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except UserError as error:
        raise UserError(f"{file} is not used: {error}.") from None
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise UserError(f"{file} is damaged or not a .npy file ({one_line(error)}).") from error


def read_npz(file: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The named arrays of a .npz file. All must have the same number of rows; scalars are exempt.

    Raises:
        UserError: the file is damaged, lacks a name, holds Python objects, or a header does not
            match its content.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            there = {name.removesuffix(".npy") for name in archive.namelist()}
            lacking = sorted(set(names) - there)
            if lacking:
                raise UserError(f"it lacks {lacking}; it holds {sorted(there)}")
            n_rows = None
            for name in names:
                member = archive.getinfo(f"{name}.npy")
                with archive.open(member) as stream:
                    n_rows = _check_header(stream, member.file_size, n_rows, name)
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
                    stream.read()  # zipfile verifies the checksum at the end of the stream
    except UserError as error:
        raise UserError(f"{file} is not used: {error}.") from None
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise UserError(f"{file} is damaged or not a .npz archive ({one_line(error)}).") from error
    return arrays


def _check_header(stream: Any, size: int, n_rows: int | None, name: str = "array") -> int:
    """The number of rows according to the header, which is checked before anything is allocated."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise UserError(
            f"`{name}` holds Python objects; save it as np.array(..., dtype=str) or as an array of "
            "numbers"
        )
    if dtype.kind in "US" and dtype.itemsize > _LONGEST_NAME:
        raise UserError(f"{name} holds strings of {dtype.itemsize} bytes")
    claimed, rest = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != rest:
        raise UserError(
            f"the header of {name} declares the shape {shape} of {dtype}, {claimed:,} bytes, but "
            f"the file holds {rest:,}"
        )
    if shape and n_rows is not None and shape[0] != n_rows:
        raise UserError(
            f"{name} must have one row for each of its {n_rows:,} tokens, but its shape is {shape}"
        )
    return shape[0] if shape and n_rows is None else (n_rows or 0)
