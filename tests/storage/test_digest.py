"""Digests follow the content, and every flipped bit of a file that we wrote is noticed."""

from __future__ import annotations

import json
import random
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import recbole_mscgrec
from recbole_mscgrec.storage import cache, checkpoint, digest
from recbole_mscgrec.storage.digest import digest_of
from recbole_mscgrec.storage.errors import UserError


def test_equal_content_has_an_equal_digest() -> None:
    one = {"w": torch.ones(2, 3).T, "s": "x", "n": [1, 2.5, None], 3: True}
    two = OrderedDict([(3, True), ("n", (1, 2.5, None)), ("w", torch.ones(3, 2)), ("s", "x")])
    assert digest_of(one) == digest_of(two)


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.ones(3, 2), "n": [1, 2.5]},
        {"w": torch.ones(6), "n": [1, 2]},
        {"w": torch.ones(3, 2).double(), "n": [1, 2]},
        {"w": torch.ones(3, 2).bfloat16(), "n": [1, 2]},
        {"w": torch.ones(3, 2), "n": [1, True]},
        {"w": torch.ones(3, 2), "n": [[1, 2]]},
        {"w": torch.ones(3, 2), "n": [12]},
        {"v": torch.ones(3, 2), "n": [1, 2]},
        {"w": torch.ones(3, 2), "n": [1, 2], "m": None},
    ],
)
def test_other_content_has_another_digest(other: dict) -> None:
    assert digest_of({"w": torch.ones(3, 2), "n": [1, 2]}) != digest_of(other)


def test_sealed_content_survives_a_json_file() -> None:
    sealed = digest.sealed({"b": (1, 2), 3: {"a": 0.1}})
    again = json.loads(json.dumps(sealed, indent=2))
    assert not digest.changed(again)
    again["3"]["a"] = 0.2
    assert digest.changed(again)
    assert not digest.changed({"b": 1})  # of an older version


def flipped(file: Path, tensor: torch.Tensor) -> bytes:
    """The file with the highest exponent bit of every 16th number of the tensor flipped."""
    content, part = bytearray(file.read_bytes()), tensor.numpy().tobytes()
    begin = content.index(part)
    for at in range(begin + 3, begin + len(part), 64):
        content[at] ^= 0x40
    return bytes(content)


def test_flipped_exponents_in_a_checkpoint_are_noticed(tmp_path: Path) -> None:
    file, weights = tmp_path / "m.pth", torch.randn(40, 8)
    state = {"config": {"model": "M", "dataset": "d"}, "state_dict": {"w": weights}, "epoch": 1}
    checkpoint.save(file, state)
    file.write_bytes(flipped(file, weights))
    with pytest.raises(UserError, match="m.pth is damaged: its content differs from the checksum"):
        checkpoint.load(file)


def test_flipped_exponents_in_a_cache_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = torch.randn(40, 8)
    cache.save(tmp_path, "text", "k", {"vectors": vectors})
    file = cache.path(tmp_path, "text", "k")
    content = flipped(file, vectors)
    file.unlink()
    file.write_bytes(content)
    assert cache.load(tmp_path, "text", "k") is None
    assert "its content differs from the checksum" in caplog.text
    assert not file.exists() and (tmp_path / f"{file.name}.unusable").read_bytes() == content


def test_whatever_bit_is_flipped_only_the_whole_content_is_used(tmp_path: Path) -> None:
    file, used, refused = tmp_path / "m.pth", 0, 0
    state = {
        "config": {"model": "M", "dataset": "d", "rate": 0.1},
        "state_dict": {"w": torch.arange(9.0), "n": torch.arange(4)},
        "epoch": 1,
    }
    checkpoint.save(file, state)
    whole = file.read_bytes()
    for n in range(500):
        content = bytearray(whole)
        content[random.Random(n).randrange(len(whole))] ^= 1 << n % 8
        file.write_bytes(content)
        try:
            assert digest_of(checkpoint.load(file)) == digest_of(state)
            used += 1
        except UserError:
            refused += 1
    assert refused > 100 and used > 100  # zip archives hold much that is not content


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """Also with a fresh digest, as of a training that went wrong."""
    state = {"config": {"model": "M", "dataset": "d"}, "state_dict": {"w": torch.ones(3)}}
    for wrong in (torch.nan, torch.inf):
        state["state_dict"]["w"][1] = wrong
        checkpoint.save(tmp_path / "m.pth", state)
        with pytest.raises(UserError, match="m.pth.*state_dict.w holds NaN or infinity"):
            checkpoint.load(tmp_path / "m.pth")


def test_the_version_and_the_commit_of_a_checkout() -> None:
    made = digest.made_by()
    assert made["version"] == recbole_mscgrec.__version__
    checkout = (Path(recbole_mscgrec.__file__).resolve().parent.parent / ".git").exists()
    assert bool(made["commit"]) == checkout
    assert made["commit"] is None or re.fullmatch(r"[0-9a-f]{7,40}\+?", made["commit"])


def test_outside_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_ROOT", tmp_path)
    assert digest._commit() is None
