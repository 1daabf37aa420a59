"""Vectors and codes made elsewhere: every format, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from recbole_mscgrec.features.given_files import given_codes, given_vectors

TOKENS = ["a", "b", "c", "d"]
VECTORS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32)  # of c, a, x
CODES = np.array([[1, 0], [4, 2], [9, 9]])


@pytest.fixture
def data() -> Any:
    """A data set of the items a, b, c, d with ids 1 to 4."""
    ids = {"[PAD]": 0, **{token: i + 1 for i, token in enumerate(TOKENS)}}
    return SimpleNamespace(item_num=5, iid_field="item_id", field2token_id={"item_id": ids})


def write_json(folder: Path, part: str, tokens: list[str], rows: np.ndarray) -> Path:
    file = folder / "given.json"
    content = json.dumps(dict(zip(tokens, rows.tolist(), strict=True)))
    file.write_text(content, encoding="utf-8-sig")
    return file


def write_npz(folder: Path, part: str, tokens: list[str], rows: np.ndarray) -> Path:
    np.savez(folder / "given.npz", tokens=np.array(tokens), **{part: rows})
    return folder / "given.npz"


def write_npz_bytes(folder: Path, part: str, tokens: list[str], rows: np.ndarray) -> Path:
    np.savez_compressed(folder / "given.npz", tokens=np.array(tokens, dtype="S"), **{part: rows})
    return folder / "given.npz"


def write_npy(folder: Path, part: str, tokens: list[str], rows: np.ndarray) -> Path:
    np.save(folder / "given.npy", rows)
    text = "\r\n".join(tokens) + "\r\n"  # as an editor on Windows saves it
    (folder / "given.tokens.txt").write_text(text, encoding="utf-8-sig", newline="")
    return folder / "given.npy"


def write_safetensors(folder: Path, part: str, tokens: list[str], rows: np.ndarray) -> Path:
    file = folder / "given.safetensors"
    safetensors.torch.save_file({part: torch.from_numpy(rows)}, file)
    (folder / "given.tokens.txt").write_text("\n".join(tokens))
    return file


WRITERS = [write_json, write_npz, write_npz_bytes, write_npy, write_safetensors]


@pytest.mark.parametrize("write", WRITERS)
def test_vectors_of_every_format(
    tmp_path: Path, data: Any, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "vectors", ["c", "a", "x"], VECTORS)
    with caplog.at_level("INFO"):
        vectors, present = given_vectors(str(file), "text", data)
    assert vectors.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2], [0, 0]]
    assert vectors.dtype == torch.float32
    assert present.tolist() == [False, True, False, True, False]
    assert "2 of 4 items; 1 tokens are unknown" in caplog.text


@pytest.mark.parametrize("write", WRITERS)
def test_codes_of_every_format(tmp_path: Path, data: Any, write: Callable[..., Path]) -> None:
    """Level sizes follow from the items of the data set, not from the unknown x."""
    file = write(tmp_path, "codes", ["c", "a", "x"], CODES)
    codes, sizes = given_codes(str(file), "text", data)
    assert codes.tolist() == [[-1, -1], [4, 2], [-1, -1], [1, 0], [-1, -1]]
    assert codes.dtype == sizes.dtype == torch.long and sizes.tolist() == [5, 3]


def test_numbers_as_tokens(tmp_path: Path, data: Any) -> None:
    data.field2token_id["item_id"] = {"[PAD]": 0, "10": 1, "20": 2, "30": 3, "40": 4}
    np.savez(tmp_path / "f.npz", tokens=np.array([20, 10]), codes=np.array([[7], [8]], np.uint8))
    assert given_codes(str(tmp_path / "f.npz"), "m", data)[0].tolist() == [
        [-1],
        [8],
        [7],
        [-1],
        [-1],
    ]


def test_half_precision_and_whole_numbers_are_vectors_too(tmp_path: Path, data: Any) -> None:
    for kind in (np.float16, np.float64, np.int32):
        file = write_npz(tmp_path, "vectors", ["a"], np.array([[1, 2]], dtype=kind))
        assert given_vectors(str(file), "m", data)[0][1].tolist() == [1, 2]
    safetensors.torch.save_file(
        {"vectors": torch.ones(1, 2, dtype=torch.bfloat16)}, tmp_path / "b.safetensors"
    )
    (tmp_path / "b.tokens.txt").write_text("d\n")
    assert given_vectors(str(tmp_path / "b.safetensors"), "m", data)[0][4].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.npz", None, "does not exist"),
        ("f.csv", b"a,1,2", r"must be one of .json, .npz, .npy, .safetensors"),
        ("f.json", b"{", "not JSON"),
        ("f.json", b"\xff\xfe", "not JSON"),
        ("f.json", b"[[1, 2]]", "must be a JSON object of item token"),
        ("f.json", b"{}", "must be a JSON object of item token"),
        ("f.json", b'{"a": [1, 2], "b": [1]}', r"1 items do not have a list of 2.*b: \[1\]"),
        ("f.json", b'{"a": 3, "b": [1]}', "2 items do not have a list of some numbers.*a: 3"),
        ("f.json", b'{"a": [1, "x"]}', r"1 items do not have.*a: \[1, 'x'\]"),
        ("f.json", b'{"a": [1, true]}', r"1 items do not have.*a: \[1, True\]"),
        ("f.json", b'{"a": [[1], [2]]}', "1 items do not have"),
        ("f.json", b'{"a": [1], "b": [1], "a": [2]}', "1 items occur more than once.*a"),
        ("f.json", b'{"x": [1], "y": [1]}', r"none of the data set's 4.*\['x', 'y'\].*\['a', 'b'"),
        ("f.json", b'{"[PAD]": [1]}', "none of the data set's 4 items"),
        ("f.json", b'{"a": [99999999999999999999]}', "must be numbers, not object"),
        ("f.npz", b"no archive", "damaged"),
        ("f.npz", b"", "damaged"),
        ("f.npy", b"no array", "damaged or not a .npy file"),
        ("f.npy", b"", "damaged"),
        ("f.safetensors", b"no tensors", "damaged"),
    ],
)
def test_files_that_cannot_be_right(
    tmp_path: Path, data: Any, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.tokens.txt").write_text("a\n")
    for read in (given_vectors, given_codes):
        with pytest.raises(ValueError, match=rf"of text \(.*{name}\).*({message})"):
            read(str(tmp_path / name), "text", data)


def test_arrays_that_cannot_be_right(tmp_path: Path, data: Any) -> None:
    def refused(message: str, **arrays: Any) -> None:
        np.savez(tmp_path / "f.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            given_vectors(str(tmp_path / "f.npz"), "text", data)

    refused(r"lacks \['tokens'\]; it holds \['vectors'\]", vectors=VECTORS)
    refused(r"lacks \['vectors'\]; it holds \['codes', 'tokens'\]", tokens=TOKENS, codes=CODES)
    refused(r"each of its 4 tokens.*\(3, 2\)", tokens=TOKENS, vectors=VECTORS)
    refused(r"their shape is \(4,\)", tokens=TOKENS, vectors=np.ones(4))
    refused(r"their shape is \(4, 0\)", tokens=TOKENS, vectors=np.ones((4, 0)))
    refused("must be numbers, not <U1", tokens=TOKENS, vectors=np.array([["x"]] * 4))
    objects = np.array(TOKENS, dtype=object)
    refused("`tokens` holds Python objects; save it as", tokens=objects, vectors=np.ones((4, 1)))
    vectors = np.array([[1.0], [np.nan], [np.inf], [2.0]])
    refused("2 items hold NaN or infinity: first b, c", tokens=TOKENS, vectors=vectors)


def test_nan_of_an_unknown_item_does_no_harm(tmp_path: Path, data: Any) -> None:
    file = write_npz(tmp_path, "vectors", ["a", "x"], np.array([[1.0], [np.nan]]))
    assert given_vectors(str(file), "text", data)[0][1].tolist() == [1]


def test_codes_outside_their_range(tmp_path: Path, data: Any) -> None:
    for wrong in (-1, 65536, 2**40):
        file = write_npz(tmp_path, "codes", TOKENS, np.array([[1, 1], [0, wrong], [2, 2], [0, 0]]))
        with pytest.raises(ValueError, match="1 items have a code outside 0 to 65535.*first b"):
            given_codes(str(file), "text", data)
    file = write_npz(tmp_path, "codes", TOKENS, np.ones((4, 2)))
    with pytest.raises(ValueError, match="must be integers, not torch.float32"):
        given_codes(str(file), "text", data)


def test_tokens_beside_an_array(tmp_path: Path, data: Any) -> None:
    np.save(tmp_path / "f.npy", VECTORS)
    with pytest.raises(ValueError, match="f.tokens.txt with one item token per line is missing"):
        given_vectors(str(tmp_path / "f.npy"), "text", data)
    file = write_safetensors(tmp_path, "other", ["a"], np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"lacks the tensor 'vectors'; it holds \['other'\]"):
        given_vectors(str(file), "text", data)
