"""Lists that are longer than the catalogue are cut to it: RecBole's models and metrics ask for the
best k of all items, and there are fewer."""

from __future__ import annotations

from logging import getLogger
from typing import Any


def cut_lists(config: Any, n_items: int, n_users: int) -> None:
    """Cut `topk`, the k of `valid_metric` and the lists inside RaCT (`metrics_k`), SASRecCPR and
    GRU4RecCPR (`reranker_CAN_NUM`) to the items, NCL's clusters of users and of items
    (`num_clusters`) to the fewer of both, and tell so in one line of the log. `config.uncut` keeps
    what was asked for: a saved model can be asked for the same again."""
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
