"""MSCGRec for RecBole.

Importing this package registers its models with RecBole. The names below are imported when they are
first used, so the import itself is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

from recbole_mscgrec.plugin import registration

__version__ = "0.2.0.dev0"

# Public name -> its module.
_PUBLIC = {
    "run": "recbole_mscgrec.runner.quick_start",
    "load_data_and_model": "recbole_mscgrec.runner.quick_start",
    "MSCGRec": "recbole_mscgrec.plugin.mscgrec",
    "Recommender": "recbole_mscgrec.serving.recommender",
    "CodeTable": "recbole_mscgrec.semantic_ids.code_table",
    "PrefixTree": "recbole_mscgrec.semantic_ids.prefix_tree",
    "AllowedItems": "recbole_mscgrec.semantic_ids.item_filter",
    "ExcludedItems": "recbole_mscgrec.semantic_ids.item_filter",
    "ResidualQuantizer": "recbole_mscgrec.semantic_ids.residual_kmeans",
    "beam_search": "recbole_mscgrec.network.beam_search",
    "Config": "recbole_mscgrec.config.config",
}
__all__ = ["__version__", "rq_dino", *_PUBLIC]

registration.install()


def __getattr__(name: str) -> Any:
    if name == "rq_dino":  # the package: recbole_mscgrec.rq_dino.api
        return importlib.import_module("recbole_mscgrec.rq_dino")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recbole_mscgrec' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
