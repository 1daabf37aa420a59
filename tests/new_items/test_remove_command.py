"""remove-items: no longer recommended, still known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_mscgrec.cli import main
from recbole_mscgrec.new_items.remove_command import remove_items
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage.errors import UserError


def test_removed_items_are_known_and_never_recommended(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = exported("default"), tmp_path / "gone.txt"
    file.write_text("i3\n\n i9 \ni3\n", encoding="utf-8-sig")  # as Windows' editors write it
    assert main(["remove-items", "--export", str(folder), "--items", str(file)]) == 0
    assert f"Generation 2 of {folder}: 2 items are removed." in capsys.readouterr().out
    model = Recommender.load(folder)
    (found,) = model.recommend([["i3", "i9"]], top=30, beam_size=30)
    assert {each.item for each in found} == set(model.items) - {"i3", "i9"}
    entry = export_folder.read(folder).history[-1]
    assert entry["n_removed"] == 2 and entry["n_items"] == 28
    assert remove_items(folder, ["i9"]) == 2  # it is removed already: no new generation


def test_wrong_tokens_are_refused(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    with pytest.raises(UserError, match="--items names the unknown item 'x3'"):
        remove_items(folder, ["i3", "x3"])
    with pytest.raises(UserError, match="would have no item left"):
        remove_items(folder, export_folder.read(folder).items)
    assert Recommender.load(folder).generation == 1
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for file in (empty, tmp_path / "no.txt"):
        assert main(["remove-items", "--export", str(folder), "--items", str(file)]) == 1
