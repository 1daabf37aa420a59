"""Checks the values of an .inter file that must not be imputed: users, items, times and labels.

RecBole drops rows without a user or an item, and replaces a missing number by the mean of its
column: a missing time becomes the mean time, a missing rating becomes a label.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

from recbole.utils import FeatureType, ModelType

from recbole_mscgrec.data.atomic_files import AtomicFile, first_lines, numbers_of
from recbole_mscgrec.storage.errors import UserError

_LABELLED = (ModelType.CONTEXT, ModelType.DECISIONTREE)  # these read labels from the file


def check_interactions(dataset: Any, file: AtomicFile) -> None:
    """Check the loaded columns of user, item, time and label, and those that `threshold` reads.
    A warning counts rows without a value in a column of `val_interval`.

    Args:
        dataset: RecBole's data set, which has read the file and knows its columns' types.
        file: the loaded columns, NaN where a value is missing.

    Raises:
        UserError: a column has the wrong type or missing values; the message names the first lines.
    """
    config = dataset.config
    _check_times(dataset, file)
    needed = {config[key]: key for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")}
    needed |= {config["LABEL_FIELD"]: "LABEL_FIELD"}
    needed |= {field: "threshold" for field in config["threshold"] or {}}
    for field, key in needed.items():
        if field not in file.frame:
            continue
        is_label = key == "LABEL_FIELD" and config["MODEL_TYPE"] in _LABELLED
        if (is_label or key == "threshold") and file.types[field] != "float":
            raise UserError(
                f"{file.path}: {field} ({key}) is of type {file.types[field]}, and labels are made "
                f"of numbers: write {field}:float in the header."
            )
        _refuse_missing(file, field, key)
    for field in config["val_interval"] or {}:
        if field in file.frame and (missing := file.frame[field].isna().to_numpy()).any():
            getLogger().warning(
                f"{file.path}: {missing.sum()} rows have no {field}; val_interval drops them: "
                f"{first_lines(file.lines, missing)}."
            )


def check_ids(config: Any, file: AtomicFile) -> None:
    """Raise UserError if the user or item column is not of type token."""
    for key, role in (("USER_ID_FIELD", "a user"), ("ITEM_ID_FIELD", "an item")):
        field = config[key]
        if field in file.frame and file.types[field] != "token":
            raise UserError(
                f"{file.path}: {field} ({key}) is of type {file.types[field]}; the id of {role} is "
                f"a name: write {field}:token in the header."
            )


def _check_times(dataset: Any, file: AtomicFile) -> None:
    field = dataset.time_field
    if field not in file.frame:
        return
    kind = dataset.field2type[field]
    if kind not in (FeatureType.FLOAT, FeatureType.TOKEN):
        raise UserError(
            f"{file.path}: {field} (TIME_FIELD) is of type {kind.value}; a time is one number per "
            f"row: write {field}:float in the header."
        )
    if kind == FeatureType.TOKEN:
        numbers_of(file.frame[field].fillna(""), file.lines, file.path, field)


def _refuse_missing(file: AtomicFile, field: str, key: str) -> None:
    missing = file.frame[field].isna().to_numpy()
    if missing.any():
        raise UserError(
            f"{file.path}: {missing.sum()} of {len(missing)} rows have no {field} ({key}): "
            f"{first_lines(file.lines, missing)}. Such values are never guessed: write them into "
            "the file, or leave these rows out."
        )
