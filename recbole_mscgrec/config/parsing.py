"""Settings from text: values typed on a command line, and YAML files. Nothing is evaluated.

RecBole passes every string of its settings to Python's `eval`, so a setting that somebody else
wrote can run code. Here a text is a literal or it stays a string.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from recbole_mscgrec.storage.errors import UserError

_PLAIN = (str, int, float, list, tuple, dict, bool, type(None))

# Keys that hold intervals such as "[5,inf)" or "(0,10]": text for RecBole, also where Python would
# read it as a list or a tuple.
_INTERVALS = re.compile(r"\w+_interval$")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number, as RecBole's loader does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class _TypedLoader(Loader):
    """For lists and mappings on a command line, where Python's None is meant as well."""


_TypedLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])


def parse_value(key: str, text: Any) -> Any:
    """The value of setting `key` that a text stands for; what is no text is returned as it is.

    A Python literal (`3`, `1e-3`, `None`, `[1, 5]`, `{'mode': 'full'}`), true or false in any case,
    a YAML list or mapping (`[text, image]`, `{inter: [user_id]}`), or else the text itself.
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
    """`parse_value` of every setting."""
    return {key: parse_value(key, value) for key, value in settings.items()}


def read_settings(file: str | Path) -> Any:
    """Content of a YAML file, numbers such as 1e-3 read as RecBole reads them.

    Raises:
        UserError: not YAML, or YAML that asks for Python objects.
    """
    try:
        return yaml.load(Path(file).read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}") from error
