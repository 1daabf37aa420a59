"""Lowers list lengths that exceed the catalogue: RecBole's models and metrics would ask for more
items than there are."""

from __future__ import annotations

from logging import getLogger
from typing import Any


def cut_lists(config: Any, n_items: int, n_users: int) -> None:
    """Lower `topk`, the k of `valid_metric` and the list lengths of RaCT (`metrics_k`), SASRecCPR
    and GRU4RecCPR (`reranker_CAN_NUM`) to the number of items, and NCL's number of clusters
    (`num_clusters`) to that of items or users, whichever is smaller. One log line says so.
    `config.uncut` keeps the original values, with which a saved model can be tested again."""
    settings = config.final_config_dict
    name, at, k = str(settings["valid_metric"]).partition("@")
    cut = {
        "topk": list(dict.fromkeys(min(k, n_items) for k in settings["topk"])),
        "valid_metric": f"{name}@{min(int(k), n_items)}" if at else name,
    }
    if settings.get("metrics_k"):
        cut["metrics_k"] = min(settings["metrics_k"], n_items)
    if settings.get("num_clusters"):
        cut["num_clusters"] = min(settings["num_clusters"], n_items, n_users)
    if settings.get("reranker_CAN_NUM"):
        sizes = str(settings["reranker_CAN_NUM"]).strip("([])").split(",")
        cut["reranker_CAN_NUM"] = ",".join(str(min(int(size), n_items)) for size in sizes)
    changed = {key: v for key, v in cut.items() if str(v) != str(settings[key])}
    if changed:
        told = ", ".join(f"{key} {settings[key]} to {v}" for key, v in changed.items())
        getLogger().warning(f"With {n_items} items and {n_users} users, these are cut: {told}.")
        config.uncut = {key: settings[key] for key in changed}
        settings.update(changed)
