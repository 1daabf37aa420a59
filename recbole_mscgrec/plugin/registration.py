"""Registers this project's classes with RecBole as soon as RecBole is imported.

RecBole looks up a model X as class X in recbole.model.sequential_recommender.<x>, its data set as
XDataset in recbole.data.dataset and its trainer as XTrainer in recbole.trainer. This module answers
these look-ups and imports a class only when it is used, so `import recbole_mscgrec` imports neither
RecBole nor torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PLUGIN, _ROWS = "recbole_mscgrec.plugin", "recbole_mscgrec.data.tiled_rows"
_TILED = "recbole_mscgrec.features.tiled_models"
MODELS = {
    "MSCGRec": f"{_PLUGIN}.mscgrec",
    "MSCGRecTokenizer": f"{_PLUGIN}.tokenizer_model",
    "SequentialRules": f"{_PLUGIN}.sequential_rules",
    "TiledSASRec": _TILED,
    "TiledGRU4Rec": _TILED,
    "TiledBSARec": _TILED,
}
# Name that RecBole looks up -> module and name of our class.
DATASETS = {f"{model}Dataset": (_ROWS, "TiledDataset") for model in MODELS}
TRAINERS = {
    "MSCGRecTrainer": (f"{_PLUGIN}.trainer", "MSCGRecTrainer"),
    "SequentialRulesTrainer": ("recbole.trainer", "TraditionalTrainer"),  # one epoch
    "MSCGRecTokenizerTrainer": (f"{_PLUGIN}.tokenizer_model", "MSCGRecTokenizerTrainer"),
}

# Functions of recbole.quick_start that read checkpoints; we replace them, to read no pickles.
FUNCTIONS = {"load_data_and_model": ("recbole_mscgrec.runner.quick_start", "load_data_and_model")}


def install() -> None:
    """Apply the fixes for RecBole and register our classes, now or right after RecBole is
    imported."""
    if "recbole" in sys.modules:
        _ready()
    elif not any(isinstance(finder, _AfterRecBole) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRecBole())


class _AfterRecBole(MetaPathFinder):
    """Calls `_ready` right after `import recbole`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of RecBole, whose loader calls `_ready` at the end; None for other modules."""
        if name != "recbole":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            raise ModuleNotFoundError(
                "RecBole is not installed: pip install 'recbole>=1.2.0'", name=name
            )
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _ready()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _ready() -> None:
    from recbole_mscgrec import compat

    compat.apply()
    from recbole_mscgrec.compat import entry
    from recbole_mscgrec.plugin import checkpoints

    checkpoints.install()
    entry.apply(MODELS, {name: _calling(*target) for name, target in FUNCTIONS.items()})
    package = importlib.import_module("recbole.model.sequential_recommender")
    for model, target in MODELS.items():
        name = f"{package.__name__}.{model.lower()}"
        sys.modules[name] = _Forwarding(name, target)
        setattr(package, model.lower(), sys.modules[name])
    for module, classes in (("recbole.data.dataset", DATASETS), ("recbole.trainer", TRAINERS)):
        importlib.import_module(module).__getattr__ = _lookup(module, classes)  # type: ignore


def _calling(module: str, name: str) -> Any:
    """A function that imports the named one when it is called, and calls it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    call.__name__ = name
    return call


class _Forwarding(ModuleType):
    """A module under another name, imported when one of its attributes is used."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self._target = target

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._target), attribute)


def _lookup(module: str, classes: dict[str, tuple[str, str]]) -> Any:
    def __getattr__(name: str) -> Any:
        if name not in classes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        target, attribute = classes[name]
        return getattr(importlib.import_module(target), attribute)

    return __getattr__
