"""Exports to which items can be added."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from new_item_files import VARIANTS, write_export
from tiny import item_texts, rule_sequences, write_dataset


@pytest.fixture(scope="session")
def rule_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose data/rule is the data set of `rule_sequences`, with texts."""
    folder = tmp_path_factory.mktemp("rule_data")
    write_dataset(folder / "data", "rule", rule_sequences(), item_texts())
    return folder


@pytest.fixture(scope="session")
def originals() -> dict[str, Path]:
    """Variant -> its export, made when it is first used."""
    return {}


@pytest.fixture
def exported(rule_data: Path, originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Gives a fresh copy of the export of a variant."""

    def copy(name: str) -> Path:
        if name not in originals:
            originals[name] = write_export(rule_data, rule_data / name, **VARIANTS[name])
        folder = tmp_path / "export"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(originals[name], folder)
        return folder

    return copy
