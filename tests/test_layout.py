"""The floors of the house: imports go one way, and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recbole_mscgrec

PACKAGE = Path(recbole_mscgrec.__file__).resolve().parent
# Bottom to top. A package imports from itself and from those before it.
FLOORS = (
    "storage semantic_ids rq_dino network transitions serving config data raw_data compat features"
    " item_content tokenizer plugin runner new_items deployment experiments tuning"
).split()
# These know neither RecBole nor its Config.
METHOD = ("storage", "semantic_ids", "rq_dino", "network", "transitions", "serving")
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
INSIDE = [p for p in MODULES if p.parent != PACKAGE]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return names


def test_every_package_is_a_floor() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert folders == set(FLOORS)


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    floor = path.relative_to(PACKAGE).parts[0]
    below = FLOORS[: FLOORS.index(floor) + 1]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "recbole_mscgrec" or parts[1:] in ([], ["__version__"]):
            assert floor not in METHOD or parts[0] != "recbole", name
        else:
            assert parts[1] in below, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_no_package_is_crowded() -> None:
    for floor in FLOORS:
        files = [p for p in (PACKAGE / floor).glob("*.py") if p.name != "__init__.py"]
        assert 0 < len(files) <= 12, floor


def test_tests_mirror_the_package() -> None:
    tests = PACKAGE.parent / "tests"
    strays = [
        path
        for floor in FLOORS
        for path in (tests / floor).glob("test_*.py")
        if not (PACKAGE / floor / path.name.removeprefix("test_")).is_file()
    ]
    assert [name.name for name in strays] in ([], ["test_data_formats.py"])
