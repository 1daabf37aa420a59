"""SASRec, GRU4Rec and BSARec with a loss at every position of a window, so that one row replaces a
row per prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from torch.func import functional_call
from torch.nn.functional import embedding

from recbole_mscgrec.data.tiled_rows import target_list_field
from recbole_mscgrec.features.frequency_filter import FilteredAttention
from recbole_mscgrec.features.item_softmax import (
    NegativeSampler,
    Similarity,
    item_cross_entropy,
    n_sampled,
)
from recbole_mscgrec.storage.errors import UserError

if TYPE_CHECKING:  # the base class for type checking
    from recbole.model.abstract_recommender import SequentialRecommender as _Model
else:
    _Model = object


class TiledRows(_Model):
    """A base class that trains a RecBole model on the windows of TiledDataset.

    The model must be causal and its rows left-aligned. Then, for a sequence that fits into one
    window, the loss equals RecBole's loss over all its prefixes, up to the order of summation. With
    a large catalogue, the softmax is over sampled items (`n_negatives`). The score of an item is
    RecBole's inner product, or a cosine (`similarity`), divided by `temperature`.

    Attributes:
        sparse_gradient: with `n_negatives`: whether the gradient of the item embedding is sparse.
            The embedding must then already have a dense gradient, to which it is added.
    """

    sparse_gradient = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.TARGETS = target_list_field(config)
        if self.loss_type != "CE":
            raise UserError(f"loss_type ({self.loss_type!r}) must be 'CE' for tiled rows.")
        # Models saved before these two settings lack them.
        self.similarity = Similarity.of(config["similarity"], config["temperature"])
        self.sampler, n = None, n_sampled(config["n_negatives"], self.n_items)
        if n:
            self.sampler = NegativeSampler(dataset.target_counts(), n, config["device"])

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """The vectors whose inner products with `item_vectors` are the scores: (B, H) or, during
        training, (B, P, H). RecBole's method is applied to the columns of the longest history only:
        no position sees later ones."""
        hidden = super().forward(item_seq[:, : int(item_seq_len.max())], item_seq_len)
        return self.similarity.queries(hidden)

    def item_vectors(self) -> torch.Tensor:
        """The vectors of all items, for inner products with those of `forward`: (n_items, H)."""
        return self.similarity.items(self.item_embedding.weight)

    def predict(self, interaction: Any) -> torch.Tensor:
        """The score of one given item per row: (B,)."""
        output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = embedding(interaction[self.ITEM_ID], self.item_embedding.weight)
        return (output * self.similarity.items(items)).sum(-1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """The scores of all items: (B, n_items)."""
        output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return output @ self.item_vectors().T

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
            weight, negatives = self.item_embedding.weight, None  # (n_items, H)
        else:
            weight, item_seq, targets, negatives = self._looked_up(self.sampler, item_seq, targets)
            table = {"item_embedding.weight": weight}
            output = functional_call(self, table, (item_seq, lengths))
        rows = (output[is_target], weight, targets[is_target])
        return item_cross_entropy(*rows, negatives, self.similarity)

    def _looked_up(
        self, sampler: NegativeSampler, item_seq: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Draw negatives, and renumber the items of the step as rows of a small table. Returns the
        table (U, H), histories and targets with the new numbers (B, T), and the negatives.

        The gradient of each look-up in the item embedding is as large as the whole embedding, so
        there is only one look-up.
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


class TiledBSARec(TiledSASRec):
    """BSARec (Shin et al., AAAI 2024) on windows: SASRec whose blocks combine self-attention with a
    frequency filter over the sequence.

    A block computes `alpha` * filter + (1 - `alpha`) * attention, then the feed-forward layer. The
    original trains one row per prefix and applies an FFT to each. On a window, the FFT would let
    positions see their targets. So the filter is causal here (see `FrequencyFilter`), with two
    differences from the original:

    - From the second block on, the output at an earlier position depends only on the prefix that
      ends there. In the original, it also depends on the later items of the history.
    - The positions before a short history are zero; the original also filters the position
      embeddings of its padding.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        for layer in self.trm_encoder.layer:
            layer.multi_head_attention = FilteredAttention(
                layer.multi_head_attention,
                share=config["alpha"],
                size=self.hidden_size,
                length=self.max_seq_length,
                n_lowest=config["c"],
                dropout_prob=self.hidden_dropout_prob,
                eps=self.layer_norm_eps,
            )
