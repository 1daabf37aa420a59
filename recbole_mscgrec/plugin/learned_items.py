"""The items of a run of MSCGRec that have a learned vector (`learned_items`)."""

from __future__ import annotations

from typing import Any

import torch

from recbole_mscgrec.config.settings import MSCGRecSettings

Tensor = torch.Tensor


def learned_items(found: Tensor | None, settings: MSCGRecSettings, train: Any) -> Tensor | None:
    """The ids, int32 (n,), ascending, of the items with a learned vector; None if all items have
    one, or none has.

    They are the n most frequent ones of the train split `train`, or those that were `found` in the
    saved model from whose weights a training starts, if it has as many.
    """
    n, n_items = settings.network.learned_items, train.item_num - 1
    if n in (0, n_items):
        return None
    if found is not None and len(found) == n:
        return found
    return most_frequent(torch.from_numpy(train.target_counts()), n)


def most_frequent(count: Tensor, n: int) -> Tensor:
    """The n items with the largest `count` (N,), of equal ones those with lower ids: int32 (n,),
    ascending. The padding item 0 is none of them."""
    best = count[1:].argsort(descending=True, stable=True)[:n] + 1
    return best.sort().values.int()
