"""SASRec and GRU4Rec with a loss at every position of a window: one row replaces a row per
prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from torch.func import functional_call
from torch.nn.functional import embedding

from recbole_mscgrec.data.tiled_rows import target_list_field
from recbole_mscgrec.features.item_softmax import NegativeSampler, item_cross_entropy, n_sampled
from recbole_mscgrec.storage.errors import UserError

if TYPE_CHECKING:  # the base class for type checking
    from recbole.model.abstract_recommender import SequentialRecommender as _Model
else:
    _Model = object


class TiledRows(_Model):
    """Trains a model of RecBole on the windows of TiledDataset.

    The model must be causal and its rows left-aligned. Then, for a sequence that fits into one
    window, the loss equals RecBole's loss over all its prefixes, up to the order of summation.
    In a large catalogue the softmax is over sampled items (`n_negatives`).

    Attributes:
        sparse_gradient: whether the gradient of the item embedding is sparse, with `n_negatives`.
            Only for an optimizer step that adds it to a dense one.
    """

    sparse_gradient = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.TARGETS = target_list_field(config)
        if self.loss_type != "CE":
            raise UserError(f"loss_type ({self.loss_type!r}) must be 'CE' for tiled rows.")
        self.sampler, n = None, n_sampled(config["n_negatives"], self.n_items)
        if n:
            self.sampler = NegativeSampler(dataset.target_counts(), n, config["device"])

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """RecBole's method, on as many columns as the longest history has, since no position sees
        later ones."""
        return super().forward(item_seq[:, : int(item_seq_len.max())], item_seq_len)

    def gather_indexes(self, output: torch.Tensor, gather_index: torch.Tensor) -> torch.Tensor:
        """Pick positions (B,) or, during training, several per row (B, P) from output (B, T, H)."""
        if gather_index.dim() == 1:
            return super().gather_indexes(output, gather_index)
        return output.gather(1, gather_index.unsqueeze(-1).expand(-1, -1, output.size(-1)))

    def n_targets(self, interaction: Any) -> torch.Tensor:
        """The number of targets of a batch, over which `calculate_loss` takes the mean."""
        return interaction[self.TARGETS].count_nonzero()

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Mean cross-entropy over all targets of the batch, among all items or sampled ones."""
        item_seq, targets = interaction[self.ITEM_SEQ], interaction[self.TARGETS]  # (B, T) both
        is_target = targets != 0
        lengths = torch.arange(1, item_seq.size(1) + 1, device=item_seq.device)
        lengths = lengths.expand_as(item_seq)
        if self.sampler is None:
            output = self.forward(item_seq, lengths)  # (B, T, H)
            weight = self.item_embedding.weight  # (n_items, H)
            return item_cross_entropy(output[is_target], weight, targets[is_target])
        weight, item_seq, targets, negatives = self._looked_up(self.sampler, item_seq, targets)
        output = functional_call(self, {"item_embedding.weight": weight}, (item_seq, lengths))
        return item_cross_entropy(output[is_target], weight, targets[is_target], negatives)

    def _looked_up(
        self, sampler: NegativeSampler, item_seq: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Negatives are drawn, and all items of the step get numbers in a table of their own: the
        rows of the table (U, H), history and targets as these numbers (B, T), and the negatives.

        The gradient of a look-up is as large as the whole item embedding. So there is only one.
        """
        drawn, correction = sampler.draw()
        parts = [drawn.new_zeros(1), item_seq.flatten(), targets.flatten(), drawn]  # 0: padding
        items, numbers = torch.cat(parts).unique(return_inverse=True)
        _, history, wanted, negatives = numbers.split([len(part) for part in parts])
        weight = embedding(items, self.item_embedding.weight, sparse=self.sparse_gradient)
        shape = item_seq.shape
        return weight, history.view(shape), wanted.view(shape), (negatives, correction)


class TiledSASRec(TiledRows, SASRec):
    """RecBole's SASRec on windows; its attention is causal."""


class TiledGRU4Rec(TiledRows, GRU4Rec):
    """RecBole's GRU4Rec on windows."""
