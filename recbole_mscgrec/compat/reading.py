"""Fixes for reading data sets with current pandas."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from recbole_mscgrec.data import time_order


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _fill_missing_values()
    _remap_sequences()
    time_order.install()


class _PandasFillingSequences:
    """pandas, except that `read_csv` returns '' for missing values of sequence columns.

    RecBole calls `df[field].fillna(value="", inplace=True)`. With copy-on-write in pandas 3 this
    changes only a temporary copy, and the next line then splits a NaN.
    """

    def __init__(self, pandas: Any) -> None:
        self._pandas = pandas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pandas, name)

    def read_csv(self, *args: Any, **kwargs: Any) -> Any:
        frame = self._pandas.read_csv(*args, **kwargs)
        sequences = [c for c in frame.columns if str(c).endswith("_seq")]
        frame[sequences] = frame[sequences].astype(object).fillna("")
        return frame


def _fill_missing_values() -> None:
    from recbole.data.dataset import dataset as module
    from recbole.utils import FeatureType

    if isinstance(module.pd, _PandasFillingSequences):
        return
    frame = module.pd.DataFrame({"a": [None, 1.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the chained assignment that is tested here
        frame["a"].fillna(value=0.0, inplace=True)
    if not frame["a"].isna().any():  # older pandas: chained assignment works
        return
    module.pd = _PandasFillingSequences(module.pd)
    original = module.Dataset._fill_nan

    def _fill_nan(self: Any) -> None:
        for name in self.feat_name_list:
            feat = getattr(self, name)
            for field in feat:
                if self.field2type[field] == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its chained assignments then have nothing to do
            original(self)

    module.Dataset._fill_nan = _fill_nan


def _remap_sequences() -> None:
    """`Dataset._remap` gets the lengths of the arrays in a column by `agg(len)`, which returns the
    length of the column since pandas 3: no `token_seq` column can be loaded."""
    from recbole.data.dataset import dataset as module
    from recbole.utils import FeatureType

    column = module.pd.Series([np.zeros(1), np.zeros(2)])
    if not isinstance(column.agg(len), int):
        return

    def _remap(self: Any, remap_list: list[tuple]) -> None:
        if not remap_list:
            return
        parts = []
        for feat, field, kind in remap_list:
            values = feat[field].to_list()
            parts.append(values if kind == FeatureType.TOKEN else np.concatenate(values).tolist())
        ids, found = module.pd.factorize(np.array(sum(parts, []), dtype=object))
        tokens = np.array(["[PAD]", *found])
        bounds = np.cumsum([len(part) for part in parts])[:-1]
        for (feat, field, kind), new in zip(remap_list, np.split(ids + 1, bounds), strict=True):
            if field not in self.field2id_token:
                self.field2id_token[field] = tokens
                self.field2token_id[field] = {token: i for i, token in enumerate(tokens)}
            if kind == FeatureType.TOKEN:
                feat[field] = new
            else:
                ends = np.cumsum([len(values) for values in feat[field]])[:-1]
                feat[field] = np.split(new, ends)

    module.Dataset._remap = _remap
