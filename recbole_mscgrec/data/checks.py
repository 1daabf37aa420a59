"""Is the data there, and does it have what sequential models need? Asked before anything slow."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import EvaluatorType, ModelType

from recbole_mscgrec.config.data_fields import header_of
from recbole_mscgrec.storage.errors import UserError


def check_data(config: Any) -> None:
    """Check that the data set is there and has the columns that its settings name.

    Raises:
        UserError: no .inter file, or no user, item or time column.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    inter = folder / f"{name}.inter"
    if config["benchmark_filename"] is not None:
        return
    if not inter.is_file():
        raise UserError(f"{inter} does not exist: put the data set's atomic files into {folder}.")
    columns = list(header_of(inter, config["field_separator"], config["encoding"]))
    if config.found_fields:
        found = ", ".join(f"{key} {column}" for key, column in config.found_fields.items())
        getLogger().info(f"{inter.name} has other columns than RecBole's default names: {found}.")
    if config.protocol:
        getLogger().info(config.protocol)
    needed, time = ["USER_ID_FIELD", "ITEM_ID_FIELD"], config["TIME_FIELD"]
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["eval_args"]["order"] == "TO"
    if ordered and (time in columns or "TIME_FIELD" in config.external_config_dict):
        needed.append("TIME_FIELD")  # a file without any keeps the order of its rows
    for key in needed:
        if config[key] not in columns:
            raise UserError(
                f"{inter} has no column {config[key]!r} ({key}); it has {', '.join(columns)}. "
                f"Name the right one with --{key}=..., or add the column."
            )
    _warn_of_labels(config, inter, columns)
    loaded = (config["load_col"] or {}).get("inter", columns)
    if time not in loaded and "TIME_FIELD" in needed:
        raise UserError(
            f"load_col reads {loaded} of {inter} but not {time!r} (TIME_FIELD), "
            "which orders the sequences: add it to load_col."
        )


def _warn_of_labels(config: Any, inter: Path, columns: list[str]) -> None:
    """A file with labels holds what users did not click as well (MIND): every row counts as an
    interaction unless `val_interval` or `threshold` says otherwise."""
    label = config["LABEL_FIELD"]
    chosen = {*(config["val_interval"] or {}), *(config["threshold"] or {})}
    if label in columns and label not in chosen and config["eval_type"] == EvaluatorType.RANKING:
        wanted = {"inter": [*config["load_col"]["inter"], label]} if config["load_col"] else {}
        load = f' --load_col="{wanted}"' if wanted else ""
        getLogger().warning(
            f"{inter.name} has a column {label!r}, and all of its rows count as interactions. To "
            f"keep the positive ones: --val_interval=\"{{'{label}': '[1,1]'}}\"{load}"
        )
