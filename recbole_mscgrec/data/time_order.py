"""Exact time order of interactions, for every model.

RecBole stores times as float32 and sorts by them. Near 1.7e9 seconds, float32 has steps of 128 s,
so the events of a session end up in arbitrary order. Here times are float64 until the data are
split, and rows with equal times keep the order of the file.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import wraps
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_mscgrec.config.data_fields import header_of
from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.data.parts import list_field
from recbole_mscgrec.storage.errors import UserError

_EXACT_INTEGERS = 2.0**53  # float64 holds every whole number below


def install() -> None:
    """Make RecBole's Dataset read, sort and split by exact times."""
    from recbole.data.dataset.dataset import Dataset

    if getattr(Dataset._load_feat, "keeps_time_order", False):
        return
    _read_exact_times(Dataset)
    _remove_duplicates_in_order(Dataset)
    _hold_times_as_float64(Dataset)


def ordered_times(texts: pd.Series) -> np.ndarray:
    """Times as float64 (n,), in the exact order of the written numbers.

    Each is the float64 nearest to its number. If different numbers have the same nearest float64
    (nanoseconds since 1970), later ones get the next larger values.

    Raises:
        UserError: a text is not a finite number.
    """
    codes, distinct = pd.factorize(texts)
    exact = [_finite_number(text) for text in distinct]
    order = sorted(range(len(exact)), key=exact.__getitem__)
    values = np.empty(len(exact))
    before, value = None, -np.inf
    for place in order:
        if exact[place] != before:
            before, value = exact[place], max(float(exact[place]), np.nextafter(value, np.inf))
        values[place] = value
    return values[codes]


def _finite_number(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise UserError(f"{text!r} is not a number")
    return number


def _read_exact_times(dataset_class: Any) -> None:
    """Read times as text if they are of type token or may not be exact as float64."""
    from recbole.utils import FeatureSource, FeatureType

    original = dataset_class._load_feat

    @wraps(original)
    def _load_feat(self: Any, filepath: str, source: Any) -> Any:
        frame = original(self, filepath, source)
        field, by_time = self.time_field, self.config["eval_args"]["order"] == "TO"
        if source != FeatureSource.INTERACTION or frame is None or field is None:
            return frame
        if field not in frame:
            given = list_field(self.config) in frame  # given histories need no times
            if by_time and not given and _has_no_times(self.config, filepath):
                self.set_field_property(field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
                first = getattr(self, "rows_without_times", 0)  # of the parts before this file
                self.rows_without_times = first + len(frame)
                frame[field] = np.arange(first, first + len(frame), dtype=np.float64)
            return frame
        if self.field2type[field] == FeatureType.TOKEN:
            frame[field] = _times(frame[field], field, filepath)
            self.field2type[field] = FeatureType.FLOAT
            self.field2bucketnum[field] = 2
        elif not _exact(frame[field].to_numpy()):
            separator, encoding = self.config["field_separator"], self.config["encoding"]
            texts = read_atomic_file(Path(filepath), separator, encoding, [field]).frame[field]
            frame[field] = _times(texts, field, filepath)
        return frame

    dataset_class._load_feat = _load_feat
    dataset_class._load_feat.keeps_time_order = True


def _has_no_times(config: Any, filepath: str) -> bool:
    """Whether the file has no time column and the user named none. Then its rows count as sorted by
    time, and a warning says so."""
    field = config["TIME_FIELD"]
    columns = header_of(Path(filepath), config["field_separator"], config["encoding"])
    # RecBole's own Config, which reads no saved model, has no `chosen_keys`.
    chosen = getattr(config, "chosen_keys", config.external_config_dict)
    if field in columns or "TIME_FIELD" in chosen:
        return False
    getLogger().warning(
        f"{filepath} has no time column ({field}): the order of its rows is taken as the order of "
        "time. If another column holds the time, name it with --TIME_FIELD=..."
    )
    return True


def _exact(times: np.ndarray) -> bool:
    """Whether different texts cannot have been rounded to the same float64."""
    return bool(((times == np.rint(times)) & (np.abs(times) < _EXACT_INTEGERS)).all())


def _times(texts: pd.Series, field: str, filepath: str) -> np.ndarray:
    try:
        return ordered_times(texts)
    except ValueError as error:
        raise UserError(
            f"{filepath}: {field} (TIME_FIELD) holds {error}: times must be numbers, such as "
            "seconds since 1970."
        ) from error


def _remove_duplicates_in_order(dataset_class: Any) -> None:
    """`rm_dup_inter` uses an unstable sort by time, so it gets times without ties."""
    original = dataset_class._remove_duplication

    @wraps(original)
    def _remove_duplication(self: Any) -> None:
        if self.config["rm_dup_inter"] is None or self.time_field not in self.inter_feat:
            original(self)
            return
        times = self.inter_feat[self.time_field]
        self.inter_feat[self.time_field] = times.rank(method="first")
        original(self)  # the index is kept, so the times can be restored
        self.inter_feat[self.time_field] = times

    dataset_class._remove_duplication = _remove_duplication


def _hold_times_as_float64(dataset_class: Any) -> None:
    """Times are float64 from the data frame to the split; models get float32, as in RecBole."""
    to_interaction, build = dataset_class._dataframe_to_interaction, dataset_class.build

    @wraps(to_interaction)
    def _dataframe_to_interaction(self: Any, data: pd.DataFrame) -> Any:
        interaction = to_interaction(self, data)
        if self.time_field in data:
            times = data[self.time_field].tolist()  # (n,), or (n, 2) as a numerical feature
            times = torch.tensor(times, dtype=torch.float64)
            interaction.interaction[self.time_field] = times
        return interaction

    @wraps(build)
    def build_in_order(self: Any) -> list:
        splits = build(self)
        for split in splits:
            for field, values in split.inter_feat.interaction.items():
                if values.dtype == torch.float64:
                    split.inter_feat.interaction[field] = values.float()
        return splits

    dataset_class._dataframe_to_interaction = _dataframe_to_interaction
    dataset_class.build = build_in_order
