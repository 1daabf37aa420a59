"""Parses settings from the command line and from YAML files, without evaluating code.

RecBole passes every string in its settings to Python's `eval`, so settings from somebody else can
run code. Here a string is parsed as a literal or kept as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.nesting import n_values

NAMES = ("model", "dataset")  # a file of settings may name them too
_MOST_VALUES = 100_000  # in a file of settings
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = (str, int, float, list, tuple, dict, bool, type(None))

# Keys with intervals such as "[5,inf)" or "(0,10]". RecBole needs them as strings, even if Python
# could read them as a list or tuple.
_INTERVALS = re.compile(r"\w+_interval$")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number, as RecBole's loader does."""


class FastLoader(_SafeLoader):  # type: ignore[valid-type, misc]
    """The same in C, if PyYAML was built with it. Its errors do not quote the line."""


for _loader in (Loader, FastLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


class _TypedLoader(Loader):
    """The loader for lists and mappings on the command line, which also reads Python's None."""


_TypedLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])


def parse_value(key: str, text: Any) -> Any:
    """Parse the value of setting `key` if it is a string; other values are returned unchanged.

    It is read as a Python literal (`3`, `1e-3`, `None`, `[1, 5]`, `{'mode': 'full'}`), as true or
    false in upper or lower case, as a YAML list or mapping (`[text, image]`, `{inter: [user_id]}`),
    or else as the string itself.
    """
    if not isinstance(text, str):
        return text
    if _INTERVALS.match(key) and not text.lstrip().startswith("{") and text != "None":
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, _PLAIN) else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = yaml.load(text, Loader=_TypedLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            return text
        if isinstance(value, (list, dict)):
            return value
    return text


def parse_values(settings: dict[str, Any]) -> dict[str, Any]:
    """Apply `parse_value` to every setting."""
    return {key: parse_value(key, value) for key, value in settings.items()}


def read_settings(file: str | Path) -> Any:
    """The content of a YAML file. Numbers such as 1e-3 are read as in RecBole.

    Raises:
        UserError: the file cannot be read, is not YAML, contains Python objects, or its aliases
            expand to far more values than settings have.
    """
    try:
        content = _load(Path(file).read_text(encoding="utf-8"))
        size = n_values(content)
    except RecursionError as error:
        raise UserError(
            f"{file} is not used: it is nested too deeply, or an alias refers to itself."
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}).") from error
    # PyYAML raises other exceptions for an invalid date or number, such as 2020-13-45.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not YAML: {one_line(error, 300)}") from error
    if size > _MOST_VALUES:
        raise UserError(
            f"{file} is not used: its aliases expand to {size:.0e} values; settings have at "
            f"most {_MOST_VALUES:,}."
        )
    return content


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=FastLoader)
    except yaml.YAMLError:
        return yaml.load(text, Loader=Loader)  # for the better message


def read_mapping(file: str | Path) -> dict[str, Any]:
    """The settings of a YAML file; an empty file has none.

    Raises:
        UserError: see `read_settings`; or the file is not a mapping.
    """
    content = read_settings(file)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        shown = f"it is {' '.join(repr(content)[:60].split())}"
        raise UserError(f"{file} must hold settings, one `key: value` a line; {shown}.")
    return content


def read_mappings(files: Iterable[str | Path]) -> dict[str, Any]:
    """The merged settings of several YAML files; later ones win. Raises as `read_mapping`."""
    settings: dict[str, Any] = {}
    for file in files:
        settings |= read_mapping(file)
    return settings


def settings_beside_names(files: Iterable[str | Path]) -> dict[str, Any]:
    """`read_mappings` without `model` and `dataset`, which a table of runs or a search sets."""
    return {key: value for key, value in read_mappings(files).items() if key not in NAMES}


def name_in(settings: dict[str, Any], key: str, default: str) -> str:
    """The model or data set (`key`) that the settings name, or else the default.

    Raises:
        UserError: it is not a string, such as the name 2018 of a data set without quotes.
    """
    name = settings.get(key)
    if name is None:
        return default
    if not isinstance(name, str):
        raise UserError(
            f"{key} ({name}) must be a string, not {type(name).__name__}: put it in quotes in the "
            f"file of --config_files, or name it with --{key}=..."
        )
    return name
