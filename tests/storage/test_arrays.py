"""NumPy files: what is in them comes out, and headers are checked before memory is taken."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from recbole_mscgrec.storage.arrays import read_npy, read_npz
from recbole_mscgrec.storage.errors import UserError


def claiming(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(64)


@pytest.mark.parametrize("array", [np.arange(6).reshape(3, 2), np.asfortranarray(np.eye(3)[:, :2])])
def test_arrays_come_out_as_they_went_in(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(read_npy(tmp_path / "x.npy", 3), array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", names=["a", "b", "c"], rows=array, depth=7)
        found = read_npz(tmp_path / "x.npz", ("names", "rows", "depth"))
        assert found["names"].tolist() == ["a", "b", "c"] and int(found["depth"]) == 7
        assert np.array_equal(found["rows"], array)


@pytest.mark.parametrize("shape", [(2_500_000_000,), (3, 10**9), (2**40, 2**40)])
def test_a_header_that_claims_gigabytes_takes_no_memory(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    (tmp_path / "x.npy").write_bytes(claiming(shape))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("rows.npy", claiming(shape))
    tracemalloc.start()
    for read in (read_npy, lambda file: read_npz(file, ["rows"])):
        name = "x.npy" if read is read_npy else "x.npz"
        with pytest.raises(UserError, match=f"{name} is not used: .* but the file holds 64"):
            read(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_the_number_of_rows_is_compared_first(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 2)))
    with pytest.raises(UserError, match=r"for each of its 3 tokens, but its shape is \(4, 2\)"):
        read_npy(tmp_path / "x.npy", 3)


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path: Path) -> None:
    """By the checksums that the format has."""
    file = tmp_path / "x.npz"
    np.savez(file, rows=np.arange(100.0))
    content = bytearray(file.read_bytes())
    content[content.index(np.arange(100.0).tobytes()) + 70] ^= 4
    file.write_bytes(content)
    with pytest.raises(UserError, match="x.npz is damaged or not a .npz archive"):
        read_npz(file, ["rows"])
