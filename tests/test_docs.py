"""The documentation says what the sources say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import recbole_mscgrec

PACKAGE = Path(recbole_mscgrec.__file__).resolve().parent
PROJECT = PACKAGE.parent


def module(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "docs" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_the_page_of_settings_is_that_of_the_yaml_files() -> None:
    settings = module("generate_settings")
    same = settings.PAGE.read_text(encoding="utf-8") == settings.page()
    assert same, f"docs/settings.md is out of date: run `{settings.COMMAND}`"


def test_every_key_of_the_yaml_files_is_on_the_page() -> None:
    import yaml

    page = text("docs/settings.md")
    for file in ("overall.yaml", "model/MSCGRec.yaml"):
        for key in yaml.safe_load(text(f"properties/{file}")):
            assert f"| `{key}` |" in page, key


def test_a_setting_is_read_with_group_default_type_and_meaning() -> None:
    intro, groups = module("generate_settings").read(
        "# About.\n\n# Codes: of items\nsize: [1, 2]  # (list) How many.\n"
        "file: ~  # (str) Where | to.\n"
        "args:  # (dict) More.\n  split: {a: b}\n  mode: full\n"
    )
    assert intro == "About."
    assert groups == [
        (
            "Codes",
            "of items",
            [
                ("size", "[1, 2]", "list", "How many."),
                ("file", "~", "str", "Where | to."),
                ("args", "{split: {a: b}, mode: full}", "dict", "More."),
            ],
        )
    ]


def test_the_readme_is_short() -> None:
    assert len(text("README.md")) <= 8000


def test_files_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"`(\w+/\w+\.py)`", text("docs/architecture.md")))
    places = (PACKAGE, PROJECT)
    examples = {"features/NAME.py", "features/test_NAME.py"}
    missing = [n for n in named - examples if not any((p / n).is_file() for p in places)]
    missing = [n for n in missing if not (PROJECT / "tests" / n).is_file()]
    assert len(named) > 15 and not missing


def test_every_package_has_an_api_page_and_a_row_in_the_architecture() -> None:
    site, architecture = text("mkdocs.yml"), text("docs/architecture.md")
    for folder in sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()):
        assert f"::: recbole_mscgrec.{folder}\n" in text(f"docs/api/{folder}.md")
        assert f"api/{folder}.md" in site and f"| `{folder}` |" in architecture


@pytest.mark.parametrize("name", sorted({*recbole_mscgrec._PUBLIC}))
def test_every_public_name_is_on_the_page_of_the_api(name: str) -> None:
    assert f"::: {recbole_mscgrec._PUBLIC[name]}.{name}\n" in text("docs/api/index.md")


def test_every_page_is_in_the_navigation() -> None:
    site = text("mkdocs.yml")
    pages = sorted(p.relative_to(PROJECT / "docs") for p in (PROJECT / "docs").rglob("*.md"))
    assert [str(p) for p in pages if f": {p}\n" not in site] == []
