"""MSCGRec (arXiv 2602.03713): generates the semantic ID of the next item from a history of codes in
all modalities.

Symbols: N items including the padding item 0, B rows, T history positions, M modalities, L levels
of the target codes, K codewords per level, D width, H heads, W beams, n targets.

The history of a row is encoded once, with attention that is causal over items. Every position t of
a training row has a target, whose decoder attends to the items up to t. So one window replaces T
rows of one prefix each (`TiledDataset`). The paper's form, a bidirectional encoder over one token
per code and a training row per prefix, is available by settings
(properties/model/MSCGRec-paper.yaml).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import init_seed

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.data.tiled_rows import target_list_field
from recbole_mscgrec.features.text import read_items
from recbole_mscgrec.network.beam_search import Beams
from recbole_mscgrec.network.history import Encoded
from recbole_mscgrec.network.init import learned_vectors
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.network.unpad import packs, positions
from recbole_mscgrec.plugin.ensemble import Ensemble
from recbole_mscgrec.plugin.evaluation import check_evaluation
from recbole_mscgrec.plugin.learned_items import learned_items
from recbole_mscgrec.plugin.transitions import counted_again, transition_model
from recbole_mscgrec.semantic_ids.item_filter import Restriction
from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.tokenizer.item_cards import check_columns
from recbole_mscgrec.tokenizer.pipeline import Tokenization, from_checkpoint, tokenize_once
from recbole_mscgrec.transitions.model import in_parts

Tensor = torch.Tensor
_ITEMS_AT_ONCE = 256  # scored together in full_sort_predict


class MSCGRec(SequentialRecommender):
    """Multimodal semantic and collaborative generative recommender.

    The constructor makes (or reuses) the codes for the train split `dataset`, or takes those of the
    saved model that `model_file` or `initial_model` names.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings = settings = MSCGRecSettings.of(config, dataset)
        check_evaluation(settings)
        self.TARGETS = target_list_field(config)
        decoding = settings.decoding
        self.beam_size = decoding.beam_size
        self.ensemble = None
        if files := decoding.rescore_model:
            weights, device = decoding.rescore_weight, settings.run.device
            self.ensemble = Ensemble(files, weights, device, dataset)
        self.constrained = settings.training.constrained_training
        tokens = _codes_of_all_items(settings, dataset)
        # Seed again: the tokenizers draw random numbers only if their results are not cached.
        init_seed(settings.run.seed, settings.run.reproducibility)
        self.code_health, self.stage_seconds = tokens.health, tokens.seconds
        self.code_state, self.other_parameter_name = tokens.to_plain(), ["code_state"]
        self.network = CodeNetwork(tokens.table, settings.network, tokens.vectors, tokens.learned)
        self.transition_weight = decoding.transition_weight
        self.transitions = transition_model(tokens.transitions, settings)
        self._training_loss = self._loss
        if settings.training.compile:  # there are few shapes: full batches and the last one
            self._training_loss = torch.compile(self._loss, dynamic=False)
        if dropped := decoding.eval_drop_modality:  # fail now, not after training
            self.network.history.index_without(dropped)

    def load_other_parameter(self, para: Any) -> None:
        """Do nothing: the constructor has made the codes or taken them from the saved model. The
        transitions of a model that starts from another one are not those of the file."""

    def zero_at_first(self) -> frozenset[str]:
        """Names of the weights that are initialized to zero; a saved model without them is
        equivalent."""
        zero = [module.weight for module in learned_vectors(self.network)]
        return frozenset(n for n, w in self.named_parameters() if any(w is z for z in zero))

    def without_modality(self, name: str) -> AbstractContextManager[None]:
        """Within this block all history items lack a modality, as if it were masked.

        Raises:
            UserError: the codes do not have this modality, or no other one.
        """
        return self.network.history.without(name)

    def n_targets(self, interaction: Any) -> Tensor:
        """The number of targets of a batch, over which `calculate_loss` takes the mean."""
        name = self.TARGETS if self.TARGETS in interaction else self.ITEM_ID
        return interaction[name].count_nonzero()

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean over all targets of the batch of -log p(next item)."""
        if self.TARGETS not in interaction:  # one row per prefix
            targets = interaction[self.ITEM_ID].unsqueeze(1)
            return self._training_loss(*self._last_positions(interaction), targets)
        item_seq = interaction[self.ITEM_SEQ]  # (B, T)
        limit = torch.arange(item_seq.size(1), device=item_seq.device).unsqueeze(0)
        return self._training_loss(item_seq, limit, interaction[self.TARGETS])

    def _loss(self, item_seq: Tensor, limit: Tensor, targets: Tensor) -> Tensor:
        """The loss of histories (B, T) and targets (B, Q), where a target 0 does not count; for
        `limit` (1 or B, Q) see `CodeNetwork.decode`."""
        targets = targets.flatten()
        place = positions(targets != 0)
        items, encoded = targets[place], self.network.encode(item_seq)
        levels = self.network.level_log_probs(encoded, limit, items, place, self.constrained)
        return -levels.sum(0).sum() / items.count_nonzero()

    def predict(self, interaction: Any) -> Tensor:
        """Exact log-probability (B,) of one given item per row, equal to the score in beam search.
        The transitions take part in it; with `rescore_model`, it is the weighted mean of all
        models'."""
        if self.transitions is None:
            return self._predict(interaction)
        return in_parts(self._predict, interaction, len(interaction[self.ITEM_ID]), self.n_items)

    def _predict(self, interaction: Any) -> Tensor:
        encoded, limit = self._history(interaction)
        items = interaction[self.ITEM_ID]
        place = torch.arange(len(items), device=items.device)
        prior = self._prior(interaction)
        levels = self.network.level_log_probs(encoded, limit, items, place, self.constrained, prior)
        if self.ensemble is None:
            return levels.sum(0)
        column, others = items.unsqueeze(1), self.ensemble.others(interaction)
        of_items = (other.gather(1, column).squeeze(1) for other in others)
        return self.ensemble.mix([levels.sum(0), *of_items])

    def level_log_probs(self, interaction: Any, rows: Tensor, items: Tensor) -> Tensor:
        """The log-probability of each level, (L, n), for n items of the given rows of a batch.
        Without `rescore_model`, their sum is the result of `predict`."""
        encoded, limit = self._history(interaction)
        encoded, prior = encoded.select(rows), self._prior(interaction)
        prior = prior and prior.select(rows)
        place = torch.arange(len(items), device=items.device)
        return self.network.level_log_probs(
            encoded, limit[rows], items, place, self.constrained, prior
        )

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Exact log-probability of every item, (B, N); -inf for padding. Meant for small
        catalogues; evaluation uses `recommend`, which needs no dense matrix."""
        encoded, limit = self._history(interaction)
        prior = self._prior(interaction)
        scores = torch.full((len(encoded), self.n_items), -torch.inf, device=limit.device)
        for items in torch.arange(1, self.n_items, device=limit.device).split(_ITEMS_AT_ONCE):
            n = len(items)
            place = torch.arange(len(encoded) * n, device=limit.device)
            rows = (encoded, limit.expand(-1, n), items.repeat(len(encoded)), place)
            levels = self.network.level_log_probs(*rows, self.constrained, prior)
            scores[:, items] = levels.sum(0).view(-1, n)
        if self.ensemble is not None:
            scores = self.ensemble.mix([scores, *self.ensemble.others(interaction)])
        return scores

    def recommend(
        self,
        interaction: Any,
        beam_size: int | None = None,
        restriction: Restriction | None = None,
    ) -> Beams:
        """The best items per row by constrained beam search: (B, W) ids and log-probabilities.

        `restriction` is an item filter (AllowedItems or ExcludedItems). If fewer than W items are
        allowed, the rest of the row holds item 0 and -inf. With `rescore_model` the W items are
        reranked by the weighted mean of all models' log-probabilities.
        """
        beams = self.search(interaction, beam_size, restriction)
        return beams if self.ensemble is None else self.ensemble.rerank(beams, interaction)

    def search(
        self,
        interaction: Any,
        beam_size: int | None = None,
        restriction: Restriction | None = None,
    ) -> Beams:
        """What `recommend` returns without `rescore_model`."""
        encoded, limit = self._history(interaction)
        width = beam_size or self.beam_size
        prior = self._prior(interaction)
        return self.network.beams(encoded, limit, width, restriction, self.constrained, prior)

    def _prior(self, interaction: Any) -> ItemPrior | None:
        """The transitions' distribution over the next item of each history; None if unused."""
        if self.transitions is None:
            return None
        texts = self.network.history.left_out != "text"
        history = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.transitions.prior(self.network.tree, *history, self.transition_weight, texts)

    def _history(self, interaction: Any) -> tuple[Encoded, Tensor]:
        """The encoded histories, and their last positions (B, 1)."""
        item_seq, last = self._last_positions(interaction)
        return self.network.encode(item_seq), last

    def _last_positions(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """The histories (B, T), and their last positions (B, 1)."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if packs(item_seq):
            item_seq = item_seq[:, : int(length.max())]
        return item_seq, (length - 1).unsqueeze(1)


def _codes_of_all_items(settings: MSCGRecSettings, train: Any) -> Tokenization:
    """The codes of the saved model that the run starts from, if any; else codes made from the train
    split. The items with a learned vector are chosen in the same way."""
    run = settings.run
    if file := run.model_file:
        return from_checkpoint(checkpoint.load(file, key="model_file"), train, file)
    pages = settings.pages
    if pages.title_column or pages.words_column:  # exports and --category use them after training
        check_columns(settings, read_items(settings.files, train))
    if file := run.initial_model:
        tokens = from_checkpoint(checkpoint.load(file, key="initial_model"), train, file)
        tokens.transitions = counted_again(tokens.transitions, settings, train)
    else:
        tokens = tokenize_once(settings, train)
    tokens.learned = learned_items(tokens.learned, settings, train)
    return tokens
