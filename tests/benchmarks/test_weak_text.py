"""The copy of a data set with almost no text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from tiny import write_dataset


def test_only_the_first_words_of_titles_are_left(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    texts = {"x": "Blue  steel kettle with lid", "y": "Lamp", "z": ""}
    write_dataset(tmp_path, "shop", {"a": ["x", "y", "z"]}, texts)
    folder = script("weak_text").write_copy(tmp_path, "shop", "title", tmp_path / "out")
    assert (folder / "shop-weak.item").read_text(encoding="utf-8").splitlines() == [
        "item_id:token\ttitle:token_seq",
        "x\tBlue steel",
        "y\tLamp",
        "z\t",
    ]
    interactions = (tmp_path / "shop" / "shop.inter").read_bytes()
    assert (folder / "shop-weak.inter").read_bytes() == interactions
