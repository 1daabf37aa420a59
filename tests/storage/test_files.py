"""Files are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import read_csv, write_csv, write_json, write_text, written_whole


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
        pytest.raises(UserError, match=r"Cannot write .*a: .*No space.* set cache_dir to another"),
        written_whole(tmp_path / "a", "cache_dir"),
    ):
        raise OSError(28, "No space left on device")


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write .*name another folder"):
        write_text(tmp_path / "file" / "a", "x")


def test_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"a": 'x, "y"', "b": "ä\nz"}, {"b": "2"}]
    write_csv(tmp_path / "a.csv", ["a", "b"], rows)
    assert (tmp_path / "a.csv").read_bytes() == 'a,b\n"x, ""y""","ä\nz"\n,2\n'.encode()
    assert read_csv(tmp_path / "a.csv") == [rows[0], {"a": "", "b": "2"}]
