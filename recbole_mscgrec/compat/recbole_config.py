"""Our Config in place of RecBole's, for scripts that use RecBole's own entry points."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import recbole.config

from recbole_mscgrec.config.config import Config


class RecBoleConfig(Config):
    """What RecBole's `Config(...)` returns for a model of this project. Like RecBole's it reads the
    command line, where a script may have its own options: unknown ones are logged and ignored."""

    def _load_cmd_line(self) -> dict[str, Any]:
        return recbole.config.Config._load_cmd_line(self)

    def _check_external_keys(self, model: str) -> None:
        strange = sorted(set(self.cmd_config_dict) - self._known)
        for key in strange:
            del self.cmd_config_dict[key], self.external_config_dict[key]
        if strange:
            getLogger().warning(f"Not settings of RecBole or of {model}, ignored: {strange}")
        super()._check_external_keys(model)
