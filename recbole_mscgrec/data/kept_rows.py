"""Logs in one line how many interactions each of RecBole's filters drops, and refuses a filter or
a split that leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from logging import getLogger
from typing import Any

from recbole_mscgrec.storage.errors import UserError

# RecBole's method -> the settings that control it.
_FILTERS = {
    "_remove_duplication": ["rm_dup_inter"],
    "_filter_by_field_value": ["val_interval"],
    "_filter_inter_by_user_or_item": ["filter_inter_by_user_or_item"],
    "_filter_by_inter_num": ["user_inter_num_interval", "item_inter_num_interval"],
}


def install() -> None:
    """Make RecBole's Dataset count the rows that it reads, drops and keeps."""
    from recbole.data.dataset.dataset import Dataset
    from recbole.data.dataset.kg_dataset import KnowledgeBasedDataset

    if getattr(Dataset._data_processing, "counts_rows", False):
        return
    for name, settings in _FILTERS.items():
        setattr(Dataset, name, _counted(getattr(Dataset, name), settings))
    KnowledgeBasedDataset._filter_link = _counted(KnowledgeBasedDataset._filter_link, [])
    original = Dataset._data_processing

    @wraps(original)
    def _data_processing(self: Any) -> None:
        self.rows_read, self.rows_dropped = len(self.inter_feat), {}
        original(self)
        _tell(self)

    Dataset._data_processing = _data_processing
    Dataset._data_processing.counts_rows = True
    split = Dataset.build

    @wraps(split)
    def build(self: Any) -> list:
        splits = split(self)
        _check_sizes(self.config, len(splits[0]), len(splits[-1]))
        return splits

    Dataset.build = build


def _counted(original: Callable[[Any], None], settings: list[str]) -> Callable[[Any], None]:
    """Wrap a filter of RecBole so that it counts the rows that it drops. The filter that keeps the
    items of the .link file has no settings."""
    name = " and ".join(settings) or "the .link file"

    @wraps(original)
    def filtered(self: Any) -> None:
        before = len(self.inter_feat)
        original(self)
        if dropped := before - len(self.inter_feat):
            self.rows_dropped[name] = dropped
        for feat in self.feat_name_list:
            if getattr(self, feat).empty:
                _refuse(self, feat, name, settings)

    return filtered


def _refuse(dataset: Any, feat: str, name: str, settings: list[str]) -> None:
    values = {key: dataset.config[key] for key in settings}
    chosen = [f"{key}={v}" for key, v in values.items() if v not in (None, "[0,inf)")]
    what = {"inter_feat": "interaction", "user_feat": "user", "item_feat": "item"}.get(feat, "row")
    before = dataset.rows_dropped.copy()
    before.pop(name, None)
    raise UserError(
        f"{', '.join(chosen) or name} leaves no {what}: {dataset.rows_read} interactions were "
        f"read, and {_list(before) or 'none'} dropped before. Relax this filter, or leave it out."
    )


def _check_sizes(config: Any, n_train: int, n_test: int) -> None:
    """Raise UserError if the train split or the test split is empty."""
    parts = config["benchmark_filename"]
    how = f"benchmark_filename {parts}" if parts else f"eval_args {config['eval_args']['split']}"
    for name, size, least in (("train", n_train, "two"), ("test", n_test, "three")):
        if not size:
            raise UserError(
                f"The {name} split is empty ({how}): with leave-one-out, users need {least} "
                "interactions or more. Lower user_inter_num_interval, split otherwise, or use "
                "another data set."
            )


def _tell(dataset: Any) -> None:
    dropped = f"dropped {_list(dataset.rows_dropped)}; " if dataset.rows_dropped else ""
    getLogger().info(
        f"Interactions: {dataset.rows_read} read; {dropped}{len(dataset.inter_feat)} kept."
    )


def _list(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} by {name}" for name, count in dropped.items())
