"""Settings for sparse data: the rule that says which data are sparse, and what is set there."""

from __future__ import annotations

from logging import getLogger
from typing import Any

SHOWN_BELOW = 30  # times that the train split shows an item in the mean
AT_LEAST = 1000  # items: fewer need no larger codebooks

# Where an item is seen a few times only, what its text and the like say of it has to tell it apart
# from others: with finer codes, the vectors behind them, and neighbours in an item's place
# (results/amazon-scientific.md). On dense data none of these gains anything (results/ml-100k.md).
SETTINGS: dict[str, Any] = {
    "history_vectors": True,
    "target_modality": "fused",
    "codebook_size": 256,
    "text_tfidf_size": 256,
    "neighbour_prob": 0.2,
}


def is_sparse(times_shown: float, n_items: int) -> bool:
    """Whether data are sparse whose train split shows each of its items so often in the mean."""
    return times_shown < SHOWN_BELOW and n_items >= AT_LEAST


def resolve(config: Any, train: Any) -> None:
    """Put SETTINGS into the configuration where the data set whose train split is `train` is sparse
    and `sparse_settings` is on, but for keys that the user has chosen; `config.preset` tells which.

    A file of codes for the target modality is a choice of the target too, and tokens of one code
    are one of codes without vectors.
    """
    n_items = train.item_num - 1
    times_shown = sum(train.item_counter.values()) / n_items
    if not config["sparse_settings"] or not is_sparse(times_shown, n_items):
        return
    chosen = set(config.external_config_dict)
    if config["target_modality"] in (config["codes_file"] or {}):
        chosen.add("target_modality")
    if config["history_tokens"] == "code":
        chosen.add("history_vectors")
    if config.preset:  # resolved before
        return
    config.preset = {key: value for key, value in SETTINGS.items() if key not in chosen}
    config.final_config_dict.update(config.preset)
    told = ", ".join(f"{key} {value}" for key, value in config.preset.items())
    getLogger().info(
        f"Sparse data (the train split shows an item {times_shown:.1f} times in the mean): {told}."
    )
