"""Fixes for RecBole's models with current packages, and for models that count or check wrongly."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    _restore_numpy_aliases()
    _import_models_without_kmeans()
    _import_models_without_anomaly_detection()
    _count_every_interaction()


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


def _import_models_without_kmeans() -> None:
    """RecBole 1.2.0 imports kmeans_pytorch with every general model, but does not require it; only
    LDiffRec with several clusters calls it."""
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
        del sys.modules[missing]  # later imports fail as if it were not installed


def _import_models_without_anomaly_detection() -> None:
    """RecBole's sine.py turns autograd's anomaly detection on when the package of sequential models
    is imported: every model then checks all gradients for NaN and trains much more slowly. If that
    import has already happened, nobody can tell whether the user had turned it on: it is turned
    off."""
    by_sine = "recbole.model.sequential_recommender.sine" in sys.modules
    before = torch.is_anomaly_enabled() and not by_sine
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(before)


def _count_every_interaction() -> None:
    """Pop adds one to all items of a batch by their index, so an item counts once per batch however
    often it occurs, and the negatives sampled by its loader count as well."""
    from recbole.model.general_recommender.pop import Pop

    original = Pop.calculate_loss
    if getattr(original, "counts_every_interaction", False):
        return

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        """RecBole's method, with its counts replaced by the number of interactions."""
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
