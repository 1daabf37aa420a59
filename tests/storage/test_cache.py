"""Fingerprints tell inputs apart; damaged and foreign files are named and not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_mscgrec.storage import cache, files
from recbole_mscgrec.storage.errors import UserError


def test_fingerprint_follows_every_input(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("a")
    base = {"t": torch.arange(3), "n": 1, "s": "x", "d": {"a": 1}, "f": file}
    first = cache.fingerprint(**base)
    assert first == cache.fingerprint(**base)
    changed = [{"t": torch.arange(4)}, {"t": torch.arange(3).float()}, {"n": 2}, {"s": "y"}]
    changed += [{"d": {"a": 2}}, {"t": np.array(["a", "b"])}]
    keys = {cache.fingerprint(**{**base, **c}) for c in changed}
    file.write_text("b")
    keys.add(cache.fingerprint(**base))
    assert len(keys | {first}) == len(changed) + 2


def test_round_trip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load(tmp_path, "text", "k") is None
    cache.save(tmp_path, "text", "k", {"v": torch.arange(4)})
    with caplog.at_level("INFO"):
        assert torch.equal(cache.load(tmp_path, "text", "k")["v"], torch.arange(4))
    assert "reused" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["text-k.safetensors"]  # no temporary file


def test_damaged_and_foreign_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save(tmp_path, "text", "k", {"v": torch.arange(400)})
    file = cache.path(tmp_path, "text", "k")
    cache.path(tmp_path, "text", "other").write_bytes(file.read_bytes())
    assert cache.load(tmp_path, "text", "other") is None
    assert "belongs to text-k" in caplog.text
    file.write_bytes(file.read_bytes()[:-50])
    assert cache.load(tmp_path, "text", "k") is None
    assert str(file) in caplog.text and "damaged" in caplog.text


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="set cache_dir to another folder"):
        cache.save(tmp_path / "taken", "text", "k", {"v": torch.arange(4)})


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "f.json"
    files.write_json(file, {"a": [1, "x"]})
    files.write_json(str(file), {"b": 2})
    assert file.read_text() == '{\n  "b": 2\n}\n'
    assert [p.name for p in file.parent.iterdir()] == ["f.json"]  # no temporary file
