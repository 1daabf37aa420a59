"""RecBole finds this project's classes under its own names as soon as RecBole is imported.

RecBole looks a model X up as the class X of recbole.model.sequential_recommender.<x>, its data set
as XDataset in recbole.data.dataset and its trainer as XTrainer in recbole.trainer. All three are
answered here, and a class is imported only when somebody asks for it: `import recbole_mscgrec`
itself imports neither RecBole nor torch.
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
    "TiledSASRec": _TILED,
    "TiledGRU4Rec": _TILED,
}
# RecBole's name -> module and name of the class.
DATASETS = {f"{model}Dataset": (_ROWS, "TiledDataset") for model in MODELS}
TRAINERS = {
    "MSCGRecTrainer": (f"{_PLUGIN}.trainer", "MSCGRecTrainer"),
    "MSCGRecTokenizerTrainer": (f"{_PLUGIN}.tokenizer_model", "MSCGRecTokenizerTrainer"),
}


def install() -> None:
    """Mend RecBole and register with it now, or right after it is imported."""
    if "recbole" in sys.modules:
        _ready()
    elif not any(isinstance(finder, _AfterRecBole) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRecBole())


class _AfterRecBole(MetaPathFinder):
    """Lets `import recbole` happen as ever, and then calls `_ready`."""

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
    from recbole_mscgrec.plugin import checkpoints

    checkpoints.install()
    package = importlib.import_module("recbole.model.sequential_recommender")
    for model, target in MODELS.items():
        name = f"{package.__name__}.{model.lower()}"
        sys.modules[name] = _Forwarding(name, target)
        setattr(package, model.lower(), sys.modules[name])
    for module, classes in (("recbole.data.dataset", DATASETS), ("recbole.trainer", TRAINERS)):
        importlib.import_module(module).__getattr__ = _lookup(module, classes)  # type: ignore


class _Forwarding(ModuleType):
    """A module of another name, imported when something in it is asked for."""

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
