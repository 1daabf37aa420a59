"""Files are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import largest_file

from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.serving.export_files import write_file
from recbole_mscgrec.storage import cache, checkpoint
from recbole_mscgrec.storage.errors import CannotWrite, UserError
from recbole_mscgrec.storage.files import (
    Told,
    read_csv,
    read_lines,
    refuses,
    write_csv,
    write_json,
    write_text,
    written_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "ä\n")
    write_json(tmp_path / "new" / "b.json", {"x": [1, None]})
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "ä\n"
    assert json.loads((tmp_path / "new" / "b.json").read_text()) == {"x": [1, None]}
    assert names(tmp_path / "new") == ["a.txt", "b.json"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_a_stop_in_the_middle_leaves_the_old_file(tmp_path: Path, stop: type) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(stop), written_whole(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise stop
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_the_data_are_on_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (order.append("fsync"), fsync(n)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_text(tmp_path / "a", "x")
    assert order == ["fsync", "replace"]


def test_a_full_disk_is_told_with_the_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"Cannot write .*a: No space.* set cache_dir to another"),
        written_whole(tmp_path / "a", "cache_dir"),
    ):
        raise OSError(28, "No space left on device")


_LARGE = {"w": torch.zeros(100_000)}
_RANKS = user_ranks.Ranks(np.arange(50_000).astype(str), np.arange(50_000, dtype=np.int32), 10)
_WRITERS: dict[str, Callable[[Path, int], object]] = {
    # Writes a small file, or with a factor of 1 one of 100 kB or more.
    "checkpoint": lambda file, x: checkpoint.save(file, {"w": _LARGE["w"][: 10 + 100_000 * x]}),
    "export": lambda file, x: write_file(file, {"w": _LARGE["w"][: 10 + 100_000 * x]}),
    "export, lines": lambda file, x: write_file(file, ["item"] * (1 + 100_000 * x)),
    "ranks": lambda file, x: user_ranks.save(file, user_ranks.Ranks(*_RANKS) if x else _few()),
    "text": lambda file, x: write_text(file, "x" * (1 + 200_000 * x)),
    "csv": lambda file, x: write_csv(file, ["a"], [{"a": "x"}] * (1 + 100_000 * x)),
}


def _few() -> user_ranks.Ranks:
    return user_ranks.Ranks(_RANKS.users[:3], _RANKS.ranks[:3], 10)


@pytest.mark.parametrize("kind", _WRITERS)
def test_a_file_that_does_not_fit_is_told_and_leaves_the_one_before(
    tmp_path: Path, kind: str
) -> None:
    """Whatever the library that writes it raises: torch and safetensors have their own errors."""
    file, write = tmp_path / "a", _WRITERS[kind]
    write(file, 0)
    before = file.read_bytes()
    match = r"Cannot write .*a: File too large\. The old file is unchanged\. Free space"
    with largest_file(50_000), pytest.raises(CannotWrite, match=match):
        write(file, 1)
    assert file.read_bytes() == before and names(tmp_path) == ["a"]


def test_a_cached_stage_that_does_not_fit_names_cache_dir(tmp_path: Path) -> None:
    match = r"x-1.safetensors: File too large\. Free .*set cache_dir to another folder"
    with largest_file(50_000), pytest.raises(CannotWrite, match=match):
        cache.save(tmp_path, "x", "1", _LARGE)
    assert names(tmp_path) == []


def test_errors_of_a_foreign_writer_name_its_place_and_setting() -> None:
    class Writer:
        def add(self, number: int) -> int:
            if number > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return number

    told = Told(Writer, "logs/run", "log_dir")
    assert told.add(1) == 1
    match = r"Cannot write logs.run: No space left on device\. .* set log_dir to another folder"
    with pytest.raises(CannotWrite, match=match):
        told.add(2)


def test_which_errors_say_that_a_disk_takes_no_more() -> None:
    assert refuses(OSError(errno.EROFS, "Read-only file system"))
    assert not refuses(FileNotFoundError(errno.ENOENT, "gone")) and not refuses(ValueError())


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write .*name another folder"):
        write_text(tmp_path / "file" / "a", "x")


def test_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"a": 'x, "y"', "b": "ä\nz"}, {"b": "2"}]
    write_csv(tmp_path / "a.csv", ["a", "b"], rows)
    assert (tmp_path / "a.csv").read_bytes() == 'a,b\n"x, ""y""","ä\nz"\n,2\n'.encode()
    assert read_csv(tmp_path / "a.csv") == [rows[0], {"a": "", "b": "2"}]


def test_lines_are_item_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text("i1\n\n i2 \n", encoding="utf-8-sig")
    assert read_lines(file, "--exclude_items") == ["i1", "i2"]
    with pytest.raises(ValueError, match=r"--allowed_items \(no.txt\) cannot be read"):
        read_lines(Path("no.txt"), "--allowed_items")
    file.write_text("\n")
    assert read_lines(file, "--exclude_items", may_be_empty=True) == []
    with pytest.raises(UserError, match=r"tokens.txt \(--items\) names no item: write one token"):
        read_lines(file, "--items")
