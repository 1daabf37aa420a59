"""Sequential rules as a model of their own: which items followed the last ones of a history in the
train split, and whose texts are similar to theirs. Nothing is trained."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_mscgrec.config.settings import data_files, run_settings, text_settings
from recbole_mscgrec.features.text import item_texts, text_vectors
from recbole_mscgrec.transitions.counts import count_transitions
from recbole_mscgrec.transitions.model import TransitionModel, in_parts

Tensor = torch.Tensor


class SequentialRules(SequentialRecommender):
    """Sequential Rules with popularity normalization and text similarity (see `TransitionModel`).

    The weight of a rule a -> b counts the pairs of the train split in which b follows a: 1 / d at a
    distance of d items, up to `max_distance`. It is divided by count(b) ** `popularity_power`, and
    the rules of a are normalized to a distribution. A second distribution follows from the cosines
    between the text vector of a and those of all items. For an item with n counted pairs, the two
    are averaged with the weight n / (n + `text_pairs`) on the rules: with few pairs, text matters
    more.

    Scores are log-probabilities. Time and memory for the rules are linear in the number of
    interactions.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        text_pairs = config["text_pairs"]
        transitions = count_transitions(
            dataset,
            _text_vectors(config, dataset) if text_pairs else None,
            max_distance=config["max_distance"],
            text_pairs=text_pairs,
            popularity_power=config["popularity_power"],
        )
        chosen = config["n_last_items"], config["recency_decay"]
        self.transitions = TransitionModel(transitions, *chosen, persistent=True)
        self.fake_loss = torch.nn.Parameter(torch.zeros(1))  # RecBole's trainer needs a parameter

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Zero: there is nothing to learn."""
        return 0 * self.fake_loss.sum()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Log-probability of every item as the next one of each history: (B, N); -inf for
        padding."""
        history = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        probabilities: Tensor = self.transitions(*history)
        return probabilities.log()

    def predict(self, interaction: Any) -> Tensor:
        """Log-probability of one given item per row: (B,)."""

        def score(rows: Any) -> Tensor:
            return (
                self.full_sort_predict(rows).gather(1, rows[self.ITEM_ID].unsqueeze(1)).squeeze(1)
            )

        return in_parts(score, interaction, len(interaction), self.n_items)


def _text_vectors(config: Any, dataset: Any) -> Tensor:
    """Vectors of the items' texts, zero for items without text: (N, D)."""
    text = text_settings(config)
    texts = item_texts(text, data_files(config), dataset)
    if not any(texts):
        getLogger().info("SequentialRules: no item has a text, so only the rules count.")
    return text_vectors(texts, text, run_settings(config))[0]
