"""Codes without meaning: the same codes, at other items."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from recbole_mscgrec.config.parsing import read_settings


def test_the_same_codes_of_other_items(script: Callable[[str], ModuleType]) -> None:
    module = script("shuffled_codes")
    text = {f"i{n}": [n, 7] for n in range(30)}
    image = {f"i{n}": [n] for n in range(0, 30, 2)}  # every second item has one
    a, b = module.shuffled([text, image], seed=3)
    assert sorted(a.values()) == sorted(text.values()) and a.keys() == text.keys()
    assert sum(a[token] != codes for token, codes in text.items()) > 24
    where = {codes[0]: token for token, codes in a.items()}
    assert b == {where[n]: [n] for n in range(0, 30, 2)}  # an item's codes stay together
    assert module.shuffled([text, image], seed=3) == [a, b]
    assert module.shuffled([text, image], seed=4) != [a, b]


def test_the_files_it_writes_are_settings_of_a_run(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    file = tmp_path / "codes_text.json"
    file.write_text(json.dumps({"a": [1], "b": [2], "c": [3]}))
    command = [sys.executable, script("shuffled_codes").__file__, f"--to={tmp_path / 'out'}", file]
    subprocess.run(command, check=True)
    settings = read_settings(tmp_path / "out" / "settings.yaml")
    assert settings["modalities"] == ["text"]
    assert sorted(json.loads(Path(settings["codes_file"]["text"]).read_text())) == ["a", "b", "c"]
