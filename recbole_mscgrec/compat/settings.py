"""Fixes for RecBole's settings: strings are not evaluated, and a Config does not affect later
ones."""

from __future__ import annotations

from typing import Any

from recbole_mscgrec.config import parsing
from recbole_mscgrec.storage.errors import UserError


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _evaluate_no_strings()
    _keep_the_lists_of_settings()


def _keep_the_lists_of_settings() -> None:
    """Config adds the keys of a data set's file to RecBole's global list of data settings, which
    therefore grows with every Config. Here each Config has its own list."""
    from recbole.config import Config

    original = Config._init_parameters_category
    if getattr(original, "copies", False):
        return

    def _init_parameters_category(self: Any) -> None:
        original(self)
        self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

    Config._init_parameters_category = _init_parameters_category
    Config._init_parameters_category.copies = True


def _evaluate_no_strings() -> None:
    """RecBole calls `eval` on all strings in its settings, on the teacher's name of KD_DAGFM and on
    the choices in HyperTuning's files, so a setting could run code."""
    from recbole.config import Config
    from recbole.model.context_aware_recommender import kd_dagfm
    from recbole.trainer import hyper_tuning

    if Config._convert_config_dict(None, {"sum": "1-1"}) == {"sum": "1-1"}:
        return

    def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
        config_dict.update(parsing.parse_values(config_dict))
        return config_dict

    Config._convert_config_dict = _convert_config_dict
    # A name in the module hides the built-in function.
    hyper_tuning.eval = lambda text: parsing.parse_value("", text)

    def teacher(name: str) -> Any:
        if not isinstance(getattr(kd_dagfm, name, None), type):
            raise UserError(f"teacher ({name}) must be CrossNet or CIN.")
        return getattr(kd_dagfm, name)

    kd_dagfm.eval = teacher
