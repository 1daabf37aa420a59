"""Fixes for RecBole's evaluation with current numpy and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _keep_plain_evaluation_data()
    _look_tail_items_up()


def _keep_plain_evaluation_data() -> None:
    """`Collector.get_data_struct` calls `.cpu()` on counts and counters, so ItemCoverage,
    GiniIndex, AveragePopularity and TailPercentage fail. Only tensors have this method."""
    from recbole.evaluator import Collector

    original = Collector.get_data_struct
    if getattr(original, "keeps_plain_data", False):
        return

    def get_data_struct(self: Any) -> Any:
        """RecBole's method, called without the entries that are not tensors."""
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
    """`TailPercentage.get_tail` searches a list of all tail items for every recommended item, in
    Python, which takes minutes for a large catalogue. Looking up all items at once gives the same
    result."""
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
