"""Settings for sparse data, and the rule that says which data are sparse."""

from __future__ import annotations

from logging import getLogger
from typing import Any

SHOWN_BELOW = 30  # average number of times that an item occurs in the train split
AT_LEAST = 1000  # items; fewer items need no larger codebooks

# If items occur only a few times, the model has to distinguish them by their content. Finer codes,
# the vectors behind the codes, and replacing items by neighbours help
# (results/amazon-scientific.md). On dense data none of these gains anything (results/ml-100k.md).
SETTINGS: dict[str, Any] = {
    "history_vectors": True,
    "target_modality": "fused",
    "codebook_size": 256,
    "text_tfidf_size": 256,
    "neighbour_prob": 0.2,
}


def is_sparse(times_shown: float, n_items: int) -> bool:
    """Whether data are sparse if each of `n_items` items occurs `times_shown` times on average in
    the train split."""
    return times_shown < SHOWN_BELOW and n_items >= AT_LEAST


def resolve(config: Any, train: Any) -> None:
    """Put SETTINGS into the configuration if `sparse_settings` is on and the train split `train` is
    sparse, except keys that the user has set. `config.preset` holds the result.

    A codes_file for the target modality also counts as setting the target, and `history_tokens:
    code` as turning `history_vectors` off.
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
    if config.preset:  # already resolved
        return
    config.preset = {key: value for key, value in SETTINGS.items() if key not in chosen}
    config.final_config_dict.update(config.preset)
    told = ", ".join(f"{key} {value}" for key, value in config.preset.items())
    getLogger().info(
        f"Sparse data (an item occurs {times_shown:.1f} times on average in training): {told}."
    )
