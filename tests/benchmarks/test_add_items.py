"""The export that the benchmark makes takes new items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from new_item_files import write_new

from recbole_mscgrec.new_items.add_command import add_items
from recbole_mscgrec.serving.recommender import Recommender


@pytest.mark.parametrize("target", ["fused", "collaborative"])
def test_items_join_the_made_up_export(
    target: str, tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    module = script("add_items")
    module.write_export(tmp_path / "export", 400, target, 8)
    new = write_new(tmp_path, {f"n{i}": text for i, text in enumerate(module.texts(9, 2))})
    assert len(add_items(tmp_path / "export", new).added) == 9
    assert len(Recommender.load(tmp_path / "export").items) == 409
