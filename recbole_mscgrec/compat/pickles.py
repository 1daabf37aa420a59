"""RecBole's saved data sets and loaders are pickles, and loading one can run code. RecBole loads
any that lies in the checkpoint folder; here only one that the user asked for is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from recbole_mscgrec.storage.errors import UserError

# RecBole's function -> the settings by which a user asks for what it loads.
_ASKED = {
    "create_dataset": ("dataset_save_path", "save_dataset"),
    "load_split_dataloaders": ("dataloaders_save_path", "save_dataloaders"),
}


def apply() -> None:
    """Refuse pickles that nobody asked for; safe to call again."""
    package, module = (importlib.import_module(f"recbole.data{part}") for part in ("", ".utils"))
    theirs: Any = getattr(module, "pickle", None)
    if not hasattr(theirs, "Unpickler"):
        return  # done already, or RecBole no longer uses pickle
    guard = _Guard(theirs)
    for name, keys in _ASKED.items():
        guarded = guard.around(getattr(module, name), keys)
        for where in (package, module):
            if hasattr(where, name):
                setattr(where, name, guarded)
    module.pickle = SimpleNamespace(load=guard.load, dump=theirs.dump)  # type: ignore[attr-defined]


class _Guard:
    """Knows whether the settings of the function that is running ask for a pickle."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.keys: tuple[str, ...] = ()
        self.asked = False

    def around(self, function: Callable[..., Any], keys: tuple[str, ...]) -> Callable[..., Any]:
        def guarded(config: Any) -> Any:
            before = self.keys, self.asked
            self.keys, self.asked = keys, any(config[key] for key in keys)
            try:
                return function(config)
            finally:
                self.keys, self.asked = before

        guarded.__name__, guarded.__doc__ = function.__name__, function.__doc__
        return guarded

    def load(self, file: Any) -> Any:
        """Raises UserError if the user did not ask for it."""
        if not self.asked:
            raise UserError(
                f"{file.name} is a pickle of RecBole, which is not loaded because that could run "
                f"code: move it away or, if you made it yourself, set {self.keys[0]} to it."
            )
        return self.original.load(file)
