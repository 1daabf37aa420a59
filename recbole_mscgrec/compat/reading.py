"""RecBole's reading of data sets: our reader of atomic files, current pandas, no pickles."""

from __future__ import annotations

import io
import warnings
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mscgrec.config.data_fields import codec_of, header_of
from recbole_mscgrec.data import kept_rows, parts, saved_data, time_order
from recbole_mscgrec.data.atomic_files import (
    AtomicFile,
    first_of_each,
    numbers_of,
    read_atomic_file,
)
from recbole_mscgrec.data.interactions import check_ids, check_interactions
from recbole_mscgrec.storage.errors import UserError


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _read_atomic_files()
    _fill_missing_values()
    _count_sequences()
    time_order.install()
    kept_rows.install()
    parts.install()
    saved_data.install()


class _AtomicPandas:
    """pandas, except that `read_csv` is `read_atomic_file`.

    RecBole calls pandas' own with its defaults: names such as NA and None become missing values, a
    quote at the beginning of a title swallows what follows, and a text in a column of numbers ends
    in a traceback. A missing value of a sequence is '' here, because RecBole's own
    `df[field].fillna(value="", inplace=True)` changes a temporary copy since pandas 3.
    """

    def __init__(self, pandas: Any) -> None:
        self._pandas = pandas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pandas, name)

    def read_csv(
        self, path: str, delimiter: str, usecols: list[str], encoding: str | None, **kwargs: Any
    ) -> Any:
        """The named columns of an atomic file as RecBole expects them: numbers, texts, and NaN for
        missing tokens."""
        kinds = dict(column.rpartition(":")[::2] for column in usecols)
        file = read_atomic_file(Path(path), delimiter, encoding, list(kinds))
        frame = file.frame
        for column, kind in kinds.items():
            if kind == "float":
                frame[column] = numbers_of(frame[column], file.lines, file.path, column)
                if frame[column].isna().all():  # RecBole imputes the mean of the others
                    raise UserError(
                        f"{path}: column {column} holds no number: leave it out of load_col, or "
                        "fill it in."
                    )
            elif kind == "token":
                frame[column] = frame[column].mask(frame[column] == "", np.nan)
        frame.attrs["lines"] = file.lines  # for the caller, which removes it
        return frame


def _open(file: Any, mode: str = "r", **options: Any) -> Any:
    """Python's `open`, except that a file opened with an encoding (RecBole does so to read the
    header of an atomic file) yields only its first line, without BOM and quotes."""
    if mode != "r" or "encoding" not in options:
        return open(file, mode, **options)
    with open(file, encoding=codec_of(options["encoding"]), errors="replace") as stream:
        return io.StringIO(stream.readline().rstrip("\r\n").replace('"', "") + "\n")


def _read_atomic_files() -> None:
    from recbole.data.dataset import dataset as module
    from recbole.utils import FeatureSource

    if isinstance(module.pd, _AtomicPandas):
        return
    module.pd = _AtomicPandas(module.pd)
    module.open = _open  # a module's own name hides the built-in function
    original = module.Dataset._load_feat

    @wraps(original)
    def _load_feat(self: Any, filepath: str, source: Any) -> Any:
        if self._get_load_and_unload_col(source)[0] == set():
            return None
        path = Path(filepath)
        types = header_of(path, self.config["field_separator"], self.config["encoding"])
        try:
            frame = original(self, filepath, source)
        except UserError:
            raise
        except ValueError:
            _check_sequences(self.config, path, types)
            raise
        if frame is None:
            return None
        sequences = [column for column in frame if types[column] == "float_seq"]
        if any(not np.isfinite(np.concatenate(frame[c].to_list())).all() for c in sequences):
            _check_sequences(self.config, path, types)
        file = AtomicFile(path, frame, types, frame.attrs.pop("lines"))
        check_ids(self.config, file)
        if source == FeatureSource.INTERACTION:
            check_interactions(self, file)
        key = {FeatureSource.USER: self.uid_field, FeatureSource.ITEM: self.iid_field}.get(source)
        return frame if key is None or key not in frame else first_of_each(file, key).frame

    module.Dataset._load_feat = _load_feat


def _check_sequences(config: Any, path: Path, types: dict[str, str]) -> None:
    """Raise UserError for the first text in a column of number sequences that is not a number."""
    columns = [column for column, kind in types.items() if kind == "float_seq"]
    file = read_atomic_file(path, config["field_separator"], config["encoding"], columns)
    for column in columns:
        for line, text in zip(file.lines, file.frame[column], strict=True):
            texts = list(filter(None, text.split(config["seq_separator"])))
            numbers = numbers_of(texts, np.full(len(texts), line), path, column)
            if np.isnan(numbers).any():
                raise UserError(
                    f"{path}, line {line}: {text!r} in column {column} lacks a number, but "
                    "sequences have no missing values."
                )


def _count_sequences() -> None:
    """RecBole computes the lengths of the arrays in a column by `agg(len)`, which since pandas 3
    gives the length of the column: sequences cannot be normalized, put into buckets, merged with
    entities or used as given histories. In RecBole's module, `len` of a column of arrays becomes
    the lengths of the arrays."""
    from recbole.data.dataset import dataset, kg_dataset, sequential_dataset

    pandas = dataset.pd
    with warnings.catch_warnings():  # before pandas 3 this test gives a warning
        warnings.simplefilter("ignore", FutureWarning)
        of_the_column = isinstance(pandas.Series([np.zeros(1), np.zeros(2)]).agg(len), int)
    if not of_the_column:
        return

    def lengths(values: Any) -> Any:
        return values.map(len) if isinstance(values, pandas.Series) else len(values)

    for module in (dataset, kg_dataset, sequential_dataset):
        module.len = lengths


def _fill_missing_values() -> None:
    from recbole.data.dataset import dataset as module
    from recbole.utils import FeatureType

    if getattr(module.Dataset._fill_nan, "fills", False):
        return
    frame = module.pd.DataFrame({"a": [None, 1.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the chained assignment that is tested here
        frame["a"].fillna(value=0.0, inplace=True)
    if not frame["a"].isna().any():  # older pandas: chained assignment works
        return
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
            warnings.simplefilter("ignore")  # its chained assignments have no effect by now
            original(self)

    module.Dataset._fill_nan = _fill_nan
    module.Dataset._fill_nan.fills = True
