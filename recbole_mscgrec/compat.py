"""Everything RecBole 1.2.0 and 1.2.1 need to run on today's numpy, pandas and torch, in one place.

`plugin.registration` calls `apply()` right after RecBole is imported. Each fix looks for the
missing feature, never for a version number, and does nothing where it exists.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch

from recbole_mscgrec.config import parsing
from recbole_mscgrec.data import time_order
from recbole_mscgrec.storage.errors import UserError


def apply() -> None:
    """Make RecBole importable and correct; safe to call again."""
    _restore_numpy_aliases()
    _import_models_without_kmeans()
    _fill_missing_values()
    _remap_sequences()
    time_order.install()
    _keep_plain_evaluation_data()
    _look_tail_items_up()
    _import_models_without_anomaly_detection()
    _count_every_interaction()
    _evaluate_no_strings()
    _keep_the_lists_of_settings()


def _restore_numpy_aliases() -> None:
    """`Config.compatibility_settings` reads three names that numpy 2 removed."""
    for name, value in (
        ("float_", np.float64),
        ("complex_", np.complex128),
        ("unicode_", np.str_),
        # Config sets these four itself; interaction.py and metrics.py read them without a Config.
        ("float", np.float64),
        ("int", np.int64),
        ("bool", np.bool_),
        ("object", np.object_),
    ):
        if name not in np.__dict__:
            setattr(np, name, value)


def _keep_the_lists_of_settings() -> None:
    """Config adds the keys of a data set's file to RecBole's own list of data settings, so that the
    list grows with every Config of a process."""
    from recbole.config import Config

    original = Config._init_parameters_category
    if getattr(original, "copies", False):
        return

    def _init_parameters_category(self: Any) -> None:
        original(self)
        self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

    Config._init_parameters_category = _init_parameters_category
    Config._init_parameters_category.copies = True


def _import_models_without_kmeans() -> None:
    """RecBole 1.2.0 imports kmeans_pytorch, which it does not require, with every general model;
    only LDiffRec with several clusters calls it."""
    models, missing = "recbole.model.general_recommender", "kmeans_pytorch"
    if models in sys.modules or importlib.util.find_spec(missing) is not None:
        return

    def kmeans(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError(
            "LDiffRec with n_cate > 1 needs kmeans_pytorch: pip install kmeans-pytorch",
            name=missing,
        )

    placeholder = ModuleType(missing)
    placeholder.kmeans = kmeans  # type: ignore[attr-defined]
    sys.modules[missing] = placeholder
    try:
        importlib.import_module(models)
    finally:
        del sys.modules[missing]  # whoever asks later is told that it is not there


def _evaluate_no_strings() -> None:
    """RecBole calls `eval` on every string among its settings, on the teacher's name of KD_DAGFM
    and on the choices in HyperTuning's files: a setting could run code."""
    from recbole.config import Config
    from recbole.model.context_aware_recommender import kd_dagfm
    from recbole.trainer import hyper_tuning

    if Config._convert_config_dict(None, {"sum": "1-1"}) == {"sum": "1-1"}:
        return

    def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
        config_dict.update(parsing.parse_values(config_dict))
        return config_dict

    Config._convert_config_dict = _convert_config_dict
    # A module's own name comes before Python's function of that name.
    hyper_tuning.eval = lambda text: parsing.parse_value("", text)

    def teacher(name: str) -> Any:
        if not isinstance(getattr(kd_dagfm, name, None), type):
            raise UserError(f"teacher ({name}) must be CrossNet or CIN.")
        return getattr(kd_dagfm, name)

    kd_dagfm.eval = teacher


class _PandasFillingSequences:
    """pandas, except that `read_csv` returns '' where a sequence column has no value.

    RecBole calls `df[field].fillna(value="", inplace=True)`, which changes a temporary copy since
    pandas 3 made copy-on-write the rule; its next line then splits a NaN.
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
        warnings.simplefilter("ignore")  # the very chained assignment that is asked about
        frame["a"].fillna(value=0.0, inplace=True)
    if not frame["a"].isna().any():  # chained assignment still works: an older pandas
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
            warnings.simplefilter("ignore")  # its chained assignments have nothing left to do
            original(self)

    module.Dataset._fill_nan = _fill_nan


def _remap_sequences() -> None:
    """`Dataset._remap` asks a column of arrays for its lengths by `agg(len)`, which since pandas 3
    is the length of the column: no `token_seq` column can be loaded."""
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


def _keep_plain_evaluation_data() -> None:
    """`Collector.get_data_struct` calls `.cpu()` on counts and counters, so that ItemCoverage,
    GiniIndex, AveragePopularity and TailPercentage fail. Only tensors have a device."""
    from recbole.evaluator import Collector

    original = Collector.get_data_struct
    if getattr(original, "keeps_plain_data", False):
        return

    def get_data_struct(self: Any) -> Any:
        held = self.data_struct
        plain = {k: v for k, v in held._data_dict.items() if not isinstance(v, torch.Tensor)}
        for key in plain:
            del held[key]
        struct = original(self)
        for key, value in plain.items():
            held.set(key, value)
            struct.set(key, value)
        return struct

    Collector.get_data_struct = get_data_struct
    Collector.get_data_struct.keeps_plain_data = True


def _look_tail_items_up() -> None:
    """`TailPercentage.get_tail` searches a list of all tail items for every recommended one, in
    Python: minutes where the catalogue is large. Looking all of them up at once gives the same."""
    from recbole.evaluator.metrics import TailPercentage

    original = TailPercentage.get_tail
    if getattr(original, "looks_up", False):
        return

    def get_tail(self: Any, item_matrix: np.ndarray, count_items: dict) -> np.ndarray:
        items = np.unique(item_matrix)
        is_tail = original(self, items[None], count_items)[0]  # each item once
        return is_tail[np.searchsorted(items, item_matrix)]

    TailPercentage.get_tail = get_tail
    TailPercentage.get_tail.looks_up = True


def _import_models_without_anomaly_detection() -> None:
    """RecBole's sine.py turns autograd's anomaly detection on when the package of sequential models
    is imported: every model then checks every gradient for NaN and trains much slower."""
    before = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(before)


def _count_every_interaction() -> None:
    """Pop adds one to all items of a batch by their index, so an item counts once per batch however
    often it stands there, and the negatives that its loader samples count as well."""
    from recbole.model.general_recommender.pop import Pop

    original = Pop.calculate_loss
    if getattr(original, "counts_every_interaction", False):
        return

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        before, items = self.item_cnt.clone(), interaction[self.ITEM_ID]
        loss = original(self, interaction)
        if "label" in interaction:
            items = items[interaction["label"] > 0]
        count = torch.bincount(items, minlength=self.n_items)
        self.item_cnt.copy_(before + count.unsqueeze(1))
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return loss

    Pop.calculate_loss = calculate_loss
    Pop.calculate_loss.counts_every_interaction = True
