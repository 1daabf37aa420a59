"""How tests get at the scripts of benchmarks/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name, anew for each test. Scripts can import each other."""
    monkeypatch.syspath_prepend(FOLDER)
    for file in FOLDER.glob("*.py"):
        # Plain names: another module of this name is hidden, and back after the test.
        monkeypatch.setitem(sys.modules, file.stem, None)
        del sys.modules[file.stem]
    return import_module
