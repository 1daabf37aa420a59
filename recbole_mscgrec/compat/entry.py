"""RecBole's own entry points for this project's models: `Config`, `run_recbole`,
`load_data_and_model` and `objective_function` work after `import recbole_mscgrec`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import recbole.config

from recbole_mscgrec.config import parsing
from recbole_mscgrec.data.seen_items import NONE, SeenItems

_STOCK = recbole.config.Config
_QUICK_START = "recbole.quick_start.quick_start"


def apply(models: Iterable[str], functions: dict[str, Any]) -> None:
    """Make RecBole's entry points accept this project's models; safe to call again.

    Args:
        models: their names.
        functions: name -> function that replaces the one in `recbole.quick_start`.
    """
    _make_our_config_of(frozenset(models))
    _leave_seen_items_out()
    if _QUICK_START in sys.modules:
        _replace(functions)
    elif not any(isinstance(finder, _AroundQuickStart) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AroundQuickStart(functions))


def _make_our_config_of(models: frozenset[str]) -> None:
    """RecBole's Config knows neither the settings of these models nor their protocol, so
    `Config(...)` returns ours for them."""
    if "__new__" in _STOCK.__dict__:
        return

    def __new__(
        cls: type,
        model: Any = None,
        dataset: Any = None,
        config_file_list: Any = None,
        config_dict: Any = None,
        **more: Any,
    ) -> Any:
        asked = cls is _STOCK and (model or config_file_list or config_dict)
        ours = asked and _named(model, config_file_list, config_dict) in models
        if ours:  # imported here, because our Config's module may be importing RecBole right now
            from recbole_mscgrec.compat.recbole_config import RecBoleConfig

            return object.__new__(RecBoleConfig)
        return object.__new__(cls)

    _STOCK.__new__ = __new__  # type: ignore[method-assign]


def _named(model: Any, files: Any, settings: Any) -> str | None:
    """The model that these arguments of a Config select, by RecBole's order of precedence."""
    if model is not None:
        return model if isinstance(model, str) else getattr(model, "__name__", None)
    for option in sys.argv[1:]:
        key, _, value = option.partition("=")
        if key == "--model" and value:
            return value
    if settings and settings.get("model"):
        return str(settings["model"])
    named = [parsing.read_mapping(file).get("model") for file in files or ()]
    return next((name for name in reversed(named) if name), None)


def _leave_seen_items_out() -> None:
    """Apply `exclude_seen` wherever data are prepared, also by RecBole's own functions."""
    package, module = (importlib.import_module(f"recbole.data{part}") for part in ("", ".utils"))
    original = module.data_preparation
    if getattr(original, "leaves_seen_items_out", False):
        return

    def data_preparation(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
        which = config["exclude_seen"] or NONE
        seen = SeenItems(dataset, which) if which != NONE else None  # before the split changes it
        train, valid, test = original(config, dataset)
        if seen:
            seen.leave_out(valid, test)
        return train, valid, test

    data_preparation.__doc__ = original.__doc__
    data_preparation.leaves_seen_items_out = True  # type: ignore[attr-defined]
    for where in (package, module):
        where.data_preparation = data_preparation  # type: ignore[attr-defined]


class _AroundQuickStart(MetaPathFinder):
    """Imports `recbole.quick_start` with a placeholder for ray if ray cannot be imported. Only a
    search with Ray Tune needs ray, which often neither installs nor runs with current packages."""

    def __init__(self, functions: dict[str, Any]) -> None:
        self._functions = functions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, with a loader that provides ray or the placeholder."""
        if name != _QUICK_START:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None  # its package is being imported
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _ray_or_placeholder():
                execute(module)
            _replace(self._functions)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _ray_or_placeholder() -> Iterator[None]:
    try:
        importlib.import_module("ray.tune")
    except Exception:  # not installed, or too old for numpy or setuptools: the types differ
        for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
            del sys.modules[name]
        ray, tune = ModuleType("ray"), ModuleType("ray.tune")
        tune.report = lambda *_, **__: None  # type: ignore[attr-defined] # outside a search
        ray.tune = tune  # type: ignore[attr-defined]
        sys.modules["ray"], sys.modules["ray.tune"] = ray, tune
        try:
            yield
        finally:
            del sys.modules["ray"], sys.modules["ray.tune"]  # later imports fail with the reason
    else:
        yield


def _replace(functions: dict[str, Any]) -> None:
    for name in (_QUICK_START, "recbole.quick_start"):
        module = sys.modules.get(name)
        if module is not None:
            for function, ours in functions.items():
                setattr(module, function, ours)
