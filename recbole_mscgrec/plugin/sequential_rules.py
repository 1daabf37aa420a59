"""Sequential rules: which items followed the last ones of a history in the train split, and whose
texts are similar to theirs. Nothing is trained."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_mscgrec.config.settings import data_files, run_settings, text_settings
from recbole_mscgrec.features.text import item_texts, text_vectors

Tensor = torch.Tensor
_SMOOTHING = 0.01  # probability that is spread over all items by their popularity
_COSINE_POWER = 2  # of the cosine of two texts: what is a little similar hardly counts
_SCORES_AT_ONCE = 1 << 24  # in `predict`, 64 MB


class SequentialRules(SequentialRecommender):
    """Sequential Rules (SR; Ludewig and Jannach, "Evaluation of session-based recommendation
    algorithms", 2018) with popularity normalization and text similarity.

    The weight of a rule a -> b counts the pairs of the train split in which b follows a: 1 / d at a
    distance of d items, up to `max_distance`. It is divided by count(b) ** `popularity_power`, and
    the rules of a are scaled to a distribution. Another distribution follows from the cosine of the
    text vector of a and those of all items. An item whose rules count n pairs has the mean of both,
    with the weight n / (n + `text_pairs`) on its rules: text matters where there are few data.
    The probability of a next item is the mean over the `n_last_items` of the history, weighed by
    `recency_decay` ** age and smoothed by the popularity of all items. An item without rules and
    text is left out; after a history of such items, or an empty one, only popularity counts.

    Scores are log-probabilities. Time and memory for the rules are linear in the number of
    interactions.
    """

    rule_start: Tensor
    rule_item: Tensor
    rule_weight: Tensor
    popularity: Tensor
    text: Tensor
    text_share: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.n_last, self.decay = config["n_last_items"], config["recency_decay"]
        counts, text_pairs = dataset.target_counts(), config["text_pairs"]
        power = config["popularity_power"]
        rules, n_pairs = sequential_rules(dataset, config["max_distance"], counts, power)
        text = _text_vectors(config, dataset) if text_pairs else torch.zeros(len(counts), 1)
        share = text_pairs / np.maximum(n_pairs + text_pairs, 1e-12) * text.any(1).numpy()
        weight = rules.data * np.repeat(1 - share, np.diff(rules.indptr))
        popularity = np.r_[0.0, counts[1:] + 1.0]  # nobody gets the padding item
        for name, values in (
            ("rule_start", torch.from_numpy(rules.indptr).long()),  # (N + 1,)
            ("rule_item", torch.from_numpy(rules.indices).int()),  # (R,) for R rules
            ("rule_weight", torch.from_numpy(weight).float()),  # (R,)
            ("popularity", torch.from_numpy(popularity / popularity.sum()).float()),  # (N,)
            ("text", text),  # (N, D), unit length or zero
            ("text_share", torch.from_numpy(share).float()),  # (N,)
        ):
            self.register_buffer(name, values)
        self.fake_loss = torch.nn.Parameter(torch.zeros(1))  # RecBole's trainer wants a parameter

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Zero: there is nothing to learn."""
        return 0 * self.fake_loss.sum()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Log-probability of every item as the next one of each history: (B, N); -inf for
        padding."""
        items, share = self._last_items(interaction)
        found = self._by_rules(items, share) + self._by_text(items, share)
        mass = found.sum(1, keepdim=True)
        popular = torch.where(mass > 0, _SMOOTHING, 1.0)
        found = (1 - popular) * found / mass.clamp(min=1e-12) + popular * self.popularity
        return found.log()

    def predict(self, interaction: Any) -> Tensor:
        """Log-probability of one given item per row: (B,)."""
        n_rows = max(1, _SCORES_AT_ONCE // self.n_items)
        found = []
        for first in range(0, len(interaction), n_rows):
            rows = interaction[first : first + n_rows]
            items = rows[self.ITEM_ID].unsqueeze(1)
            found.append(self.full_sort_predict(rows).gather(1, items).squeeze(1))
        return torch.cat(found)

    def _last_items(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """The last items of each history, newest first, and their weights, which sum to 1 or, in an
        empty history, to 0: (B, n) both."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        age = torch.arange(self.n_last, device=item_seq.device)
        place = length.unsqueeze(1) - 1 - age
        weight = torch.where(place >= 0, self.decay**age, 0.0)
        items = item_seq.gather(1, place.clamp(min=0)) * (place >= 0)
        return items, weight / weight.sum(1, keepdim=True).clamp(min=1e-12)

    def _by_rules(self, items: Tensor, share: Tensor) -> Tensor:
        """What the rules of the items (B, n) contribute, by the weight of each item: (B, N)."""
        rules = self.rule_weight, self.rule_item, self.rule_start
        weight, column, start = (part.cpu().numpy() for part in rules)
        matrix = _matrix(weight, column, start, self.n_items)
        bounds = np.arange(len(items) + 1) * items.size(1)
        values, columns = share.cpu().numpy().ravel(), items.cpu().numpy().ravel()
        found = (_matrix(values, columns, bounds, self.n_items) @ matrix).toarray()
        return torch.from_numpy(found).to(items.device)

    def _by_text(self, items: Tensor, share: Tensor) -> Tensor:
        """What their texts contribute, except for the items themselves, of which the rules know how
        often they come again: (B, N)."""
        weight = share * self.text_share[items]
        mean = (weight.unsqueeze(2) * self.text[items]).sum(1)  # (B, D)
        cosines = torch.nn.functional.normalize(mean, dim=1) @ self.text.T
        similar = (cosines.clamp(min=0) ** _COSINE_POWER).scatter(1, items, 0.0)
        sums = similar.sum(1, keepdim=True).clamp(min=1e-12)
        return similar / sums * weight.sum(1, keepdim=True)


def sequential_rules(
    train: Any, max_distance: int, counts: np.ndarray, popularity_power: float
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """The rules a -> b in row a and column b, (N, N) with rows that sum to 1 or are empty, and the
    number of pairs, each divided by its distance, behind the rules of every item, (N,).

    Args:
        train: the TiledDataset of the train split.
        max_distance: the farthest pair of items that counts.
        counts: (N,), how often each item is a target.
        popularity_power: of the counts, by which the weights are divided.
    """
    n_items = train.item_num
    rules = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    for distance in range(1, max_distance + 1):
        earlier, later = train.pairs(distance)
        if not len(later):
            break
        values = np.full(len(later), 1 / distance)
        rules += sparse.csr_matrix((values, (earlier, later)), shape=rules.shape)
    n_pairs = np.asarray(rules.sum(1)).ravel()
    rules.data /= counts[rules.indices] ** popularity_power
    sums = np.asarray(rules.sum(1)).ravel()
    rules.data /= np.repeat(sums, np.diff(rules.indptr))
    return rules, n_pairs


def _matrix(
    values: np.ndarray, columns: np.ndarray, bounds: np.ndarray, n_columns: int
) -> sparse.csr_matrix:
    shape = (len(bounds) - 1, n_columns)
    return sparse.csr_matrix((values, columns, bounds), shape=shape)


def _text_vectors(config: Any, dataset: Any) -> Tensor:
    """Vectors of the items' texts, unit length, zero for items without text: (N, D)."""
    text = text_settings(config)
    texts = item_texts(text, data_files(config), dataset)
    if not any(texts):
        getLogger().info("SequentialRules: no item has a text, so only the rules count.")
    return text_vectors(texts, text, run_settings(config))[0]
