"""Fixes for RecBole's evaluation with current numpy and torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _collect_in_linear_time()
    _keep_plain_evaluation_data()
    _look_tail_items_up()
    _collect_no_excluded_items()
    _count_no_empty_places()


def _collect_in_linear_time() -> None:
    """`DataStruct.update_tensor` copies the lists of all earlier users for every batch. Here they
    are in a buffer with room for more rows, whose size doubles when it is full."""
    from recbole.evaluator.collector import DataStruct

    original = DataStruct.update_tensor
    if getattr(original, "has_room", False):
        return

    def update_tensor(self: Any, name: str, value: torch.Tensor) -> None:
        """Append the rows of `value` to those stored under `name`, if any."""
        held = self._data_dict.get(name)
        if not _can_follow(value, held):
            original(self, name, value)
            return
        n_held, n = len(held), len(held) + len(value)
        room = getattr(held, "room", held)
        if len(room) < n:
            room = held.new_empty((2 * n, *held.shape[1:]))
            room[:n_held] = held
        room[n_held:n] = value.detach()
        longer: Any = room[:n]
        longer.room = room  # freed with the tensor when the Collector deletes it
        self._data_dict[name] = longer

    DataStruct.update_tensor = update_tensor
    DataStruct.update_tensor.has_room = True


def _can_follow(value: torch.Tensor, held: Any) -> bool:
    """Whether the rows of `value` can be appended to those of `held` without conversion."""
    if not isinstance(held, torch.Tensor):
        return False
    kinds = [(t.dtype, t.device, t.shape[1:]) for t in (value, held)]
    return value.dim() > 0 and kinds[0] == kinds[1]


def _keep_plain_evaluation_data() -> None:
    """`Collector.get_data_struct` calls `.cpu()` on counts and counters, so ItemCoverage,
    GiniIndex, AveragePopularity and TailPercentage fail. Only tensors have this method."""
    from recbole.evaluator import Collector

    original = Collector.get_data_struct
    if getattr(original, "keeps_plain_data", False):
        return

    def get_data_struct(self: Any) -> Any:
        """RecBole's method; entries that are not tensors are set aside while it runs."""
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


def _collect_no_excluded_items() -> None:
    """`Collector.eval_batch_collect` takes the k items with the highest scores, even if fewer have
    a score above -inf: then the list contains excluded items and the padding item. Here these are
    replaced by item 0, an empty place."""
    from recbole.evaluator import Collector

    original = Collector.eval_batch_collect
    if getattr(original, "leaves_places_empty", False):
        return

    def eval_batch_collect(self: Any, scores: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        original(self, scores, *args, **kwargs)
        if not self.register.need("rec.items"):
            return
        items = self.data_struct.get("rec.items")[-len(scores) :]  # a view of this batch's lists
        items[scores.gather(1, items.to(scores.device)).isneginf().to(items.device)] = 0

    Collector.eval_batch_collect = eval_batch_collect
    Collector.eval_batch_collect.leaves_places_empty = True


def _count_no_empty_places() -> None:
    """ItemCoverage, GiniIndex and ShannonEntropy count the item 0 of an empty place as an item;
    AveragePopularity and TailPercentage count it as an item without interactions."""
    from recbole.evaluator import metrics

    if getattr(metrics.ItemCoverage.get_coverage, "without_empty_places", False):
        return
    for kind, name in (
        (metrics.ItemCoverage, "get_coverage"),
        (metrics.GiniIndex, "get_gini"),
        (metrics.ShannonEntropy, "get_entropy"),
    ):
        setattr(kind, name, _of_items(getattr(kind, name)))
    for kind, name in (
        (metrics.AveragePopularity, "get_pop"),
        (metrics.TailPercentage, "get_tail"),
    ):
        setattr(kind, name, _with_means_in_empty_places(getattr(kind, name)))


def _of_items(original: Callable[..., float]) -> Callable[..., float]:
    """Wrap a metric of all lists (B, k) so that it gets only their real items, (1, n)."""

    @wraps(original)
    def measure(self: Any, item_matrix: np.ndarray, *args: Any) -> float:
        items = item_matrix[item_matrix != 0]
        return original(self, items[None], *args) if len(items) else 0.0

    measure.without_empty_places = True  # type: ignore[attr-defined]
    return measure


def _with_means_in_empty_places(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Wrap a function that gives a value per place, (B, k), over whose first places the metric
    takes means. Empty places come after all items of a list; they get the mean of these items'
    values, so they do not change the metric."""

    @wraps(original)  # copies the marks of earlier fixes
    def measure(self: Any, item_matrix: np.ndarray, *args: Any) -> np.ndarray:
        values, real = original(self, item_matrix, *args), item_matrix != 0
        if real.all():
            return values
        values = np.where(real, values, 0.0)
        mean = values.sum(1, keepdims=True) / np.maximum(real.sum(1, keepdims=True), 1)
        return np.where(real, values, mean)

    return measure
