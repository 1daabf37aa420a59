"""Checks, before anything slow, that the data exist and have what sequential models need."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import psutil
from recbole.utils import ModelType

from recbole_mscgrec.config.data_fields import header_of
from recbole_mscgrec.data.tiled_rows import TiledDataset
from recbole_mscgrec.storage.errors import UserError


def check_data(config: Any) -> None:
    """Check that the data set exists and has the columns named in the settings.

    Raises:
        UserError: there is no .inter file, or it has no user, item or time column.
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
    needed, time = ["USER_ID_FIELD", "ITEM_ID_FIELD"], config["TIME_FIELD"]
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["eval_args"]["order"] == "TO"
    if ordered and (time in columns or "TIME_FIELD" in config.external_config_dict):
        needed.append("TIME_FIELD")  # a file without a time column keeps the order of its rows
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


def check_memory(config: Any, data: Any) -> None:
    """Check that the histories of the data set fit into memory: at least one row per user with
    tiled rows, one per target otherwise, each with MAX_ITEM_LIST_LENGTH item ids.

    Raises:
        UserError: they need more memory than is available.
    """
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return
    prefixes = "train_rows" in config and config["train_rows"] == "prefix"
    tiled = isinstance(data, TiledDataset) and not prefixes
    n_rows = data.user_num - 1 if tiled else data.inter_num - data.user_num + 1
    length = config["MAX_ITEM_LIST_LENGTH"]
    parts = 4 if tiled else 1  # histories and targets of training, histories of the other splits
    needed, free = 8 * parts * n_rows * length, psutil.virtual_memory().available  # int64
    if needed > free:
        raise UserError(
            f"MAX_ITEM_LIST_LENGTH ({length}): {n_rows:,} histories of this length need "
            f"{needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are available: "
            "lower it."
        )


def _warn_of_labels(config: Any, inter: Path, columns: list[str]) -> None:
    """Warn about a label column. Such files also list items that users did not click (MIND), and
    every row counts as an interaction unless `val_interval` or `threshold` filters them."""
    label = config["LABEL_FIELD"]
    chosen = {*(config["val_interval"] or {}), *(config["threshold"] or {})}
    if label in columns and label not in chosen and config["MODEL_TYPE"] != ModelType.CONTEXT:
        wanted = {"inter": [*config["load_col"]["inter"], label]} if config["load_col"] else {}
        load = f' --load_col="{wanted}"' if wanted else ""
        getLogger().warning(
            f"{inter.name} has a column {label!r}, and all of its rows count as interactions. To "
            f"keep the positive ones: --val_interval=\"{{'{label}': '[1,1]'}}\"{load}"
        )
