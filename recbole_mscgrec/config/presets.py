"""Settings that follow from the data: those for sparse data and by the size of the catalogue."""

from __future__ import annotations

from logging import getLogger
from typing import Any

SHOWN_BELOW = 30  # average number of times that an item occurs in the train split
# Only the most frequent items learn a vector. With more, the vectors of the items and of the nodes
# on their paths would take most of the memory and of the time of a training step.
LEARNED_ITEMS = 20_000
# Number of items. Transitions are a distribution over all items for each user, which in larger
# catalogues would take most of the time of a beam search.
TRANSITIONS_UP_TO = 100_000
TRANSITION_WEIGHT = 0.7  # chosen on validation (results/transitions.md)
AT_LEAST = 1000  # items; smaller catalogues need no larger codebooks

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
    """Decide the settings that follow from the train split `train`; `config.preset` holds them.

    Unless it is set, `learned_items` is `LEARNED_ITEMS`; it is at most the number of items. In
    catalogues of up to `TRANSITIONS_UP_TO` items, `transition_weight` is on unless it is set. If
    `sparse_settings` is on and the data are sparse, keys that the user has not set get the values
    of `SETTINGS`. A codes_file for the target modality also counts as setting the target, and
    `history_tokens: code` as turning both kinds of vectors off.
    """
    if config.preset:  # already resolved
        return
    n_items = train.item_num - 1
    config.preset = {**_by_size(config, n_items), **_for_sparse(config, train, n_items)}
    config.final_config_dict.update(config.preset)


def _by_size(config: Any, n_items: int) -> dict[str, Any]:
    small = n_items <= TRANSITIONS_UP_TO
    found = {
        "learned_items": LEARNED_ITEMS if config["history_tokens"] == "item" else 0,
        "transition_weight": TRANSITION_WEIGHT if small and config["constrained_training"] else 0.0,
    }
    found |= {key: config[key] for key in found if config[key] is not None}
    found["learned_items"] = min(found["learned_items"], n_items)
    return {key: value for key, value in found.items() if value != config[key]}


def _for_sparse(config: Any, train: Any, n_items: int) -> dict[str, Any]:
    times_shown = sum(train.item_counter.values()) / n_items
    if not config["sparse_settings"] or not is_sparse(times_shown, n_items):
        return {}
    chosen = set(config.external_config_dict)
    if config["target_modality"] in (config["codes_file"] or {}):
        chosen.add("target_modality")
    if config["history_tokens"] == "code":
        chosen.add("history_vectors")
    changed = {key: value for key, value in SETTINGS.items() if key not in chosen}
    told = ", ".join(f"{key} {value}" for key, value in changed.items())
    getLogger().info(
        f"Sparse data (an item occurs {times_shown:.1f} times on average in training): {told}."
    )
    return changed
