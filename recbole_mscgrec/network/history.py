"""History tokens: the codes of items in all modalities, embedded as input of the encoder.

Symbols as in mscgrec.py. G, the number of tokens per item, is 1 (the sum of its codes) or the
number of its codes in all modalities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import embedding

from recbole_mscgrec.network.block_attention import Windows
from recbole_mscgrec.network.learned_vectors import LearnedVectors
from recbole_mscgrec.network.unpad import packs
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
ITEM, CODE = "item", "code"


class Encoded(NamedTuple):
    """Encoded histories: G tokens for each of T items, item by item."""

    states: Tensor  # (B, T * G, D)
    keep: Tensor | None  # bool (B, T * G): tokens in use; None: all that a query may see
    windows: Windows | None = None  # in training on a CPU, for attention by blocks

    def __len__(self) -> int:
        return len(self.states)

    def select(self, rows: Tensor) -> Encoded:
        """The encodings of the given rows (n,), which may repeat."""
        return Encoded(self.states[rows], None if self.keep is None else self.keep[rows])


def check_dropped(modality: str, modalities: list[str]) -> None:
    """Raise UserError unless the modality is one of at least two."""
    if modality not in modalities or len(modalities) == 1:
        raise UserError(
            f"eval_drop_modality ({modality}) must be one of several modalities that the model "
            f"has; it has {modalities}."
        )


class HistoryTokens(nn.Module):
    """Embeds item ids (B, T) as tokens (B, T * G, D); masks modalities at random in training.

    Row 0 of `code_embedding` is zero. Every modality has one row for 'masked or missing' and one
    per codeword. An item without the modality uses the mask row for the first level and row 0 for
    the others; if these are separate tokens, attention skips them.

    Args:
        table: the codes.
        size: D.
        tokens: 'item' (one token per item) or 'code' (one per code; the paper's form).
        code_positions: add a learned vector per position inside an item, instead of a relative
            bias.
        mask_prob: probability of masking a modality of an item in training; never all of them.
        vectors: modality -> vectors (N, D_m). A linear map of them is added to the token of an
            item. Needs tokens='item'.
        learned: add a learned vector per item, initialized to zero. Needs tokens='item'.
        learned_items: (n,) ascending ids of the items with a learned vector; None: all.
    """

    item_index: Tensor
    mask_layout: Tensor
    first: Tensor
    modality_of: Tensor

    def __init__(
        self,
        table: CodeTable,
        size: int,
        tokens: str = ITEM,
        code_positions: bool = False,
        mask_prob: float = 0.0,
        vectors: dict[str, Tensor] | None = None,
        learned: bool = False,
        learned_items: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.mask_prob = mask_prob
        vectors = vectors or {}
        self.vector_parts = nn.ModuleDict(
            {name: VectorPart(vectors[name], size) for name in table.history if name in vectors}
        )
        self.left_out: str | None = None
        self._lay_out(table)
        self.per_item = sum(self.columns) if tokens == CODE else 1  # G
        self.code_embedding = nn.Embedding(self.n_rows, size, padding_idx=0)
        self.item_embedding = (
            LearnedVectors(table.n_items, size, learned_items, padding_idx=0) if learned else None
        )
        self.code_position = nn.Embedding(self.per_item, size) if code_positions else None

    def _lay_out(self, table: CodeTable) -> None:
        """Store, for each item, the rows of `code_embedding` that represent it."""
        index, mask_layout, row = [], [], 1
        self.n_rows = 1 + sum(1 + sum(table.sizes[name]) for name in table.history)
        kind = torch.int16 if self.n_rows < 2**15 else torch.int32
        for name, codes in table.history.items():
            offsets = torch.tensor([0, *table.sizes[name][:-1]]).cumsum(0) + row + 1
            absent = torch.zeros(1, codes.size(1), dtype=kind)
            absent[0, 0] = row
            present = (codes + offsets).to(kind)
            index.append(torch.where(codes[:, :1] == MISSING, absent, present))
            mask_layout.append(absent)
            row += 1 + sum(table.sizes[name])
        item_index = torch.cat(index, dim=1)
        item_index[0] = 0
        self.modalities = list(table.history)
        self.columns = [codes.size(1) for codes in table.history.values()]
        # Not saved: they follow from the code table, which is in the checkpoint.
        for name, tensor in (
            ("item_index", item_index),  # (N, C), C = sum of L_m
            ("mask_layout", torch.cat(mask_layout, dim=1)[0]),  # (C,) an item with all masked
            ("first", torch.tensor([0, *self.columns[:-1]]).cumsum(0)),  # (M,) first columns
            ("modality_of", torch.arange(len(index)).repeat_interleave(torch.tensor(self.columns))),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def index_without(self, modality: str) -> Tensor:
        """`item_index` (N, C) as if no item had the modality.

        Raises:
            UserError: the code table does not have it, or has no other modality.
        """
        check_dropped(modality, self.modalities)
        gone = self.modality_of == self.modalities.index(modality)
        index = torch.where(gone, self.mask_layout, self.item_index)
        index[0] = 0
        return index

    @contextmanager
    def without(self, modality: str) -> Iterator[None]:
        """Within this block the modality is masked for all items.

        Raises:
            UserError: see `index_without`.
        """
        index, self.item_index = self.item_index, self.index_without(modality)
        self.left_out = modality
        try:
            yield
        finally:
            self.item_index, self.left_out = index, None

    def forward(self, item_seq: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T * G, D) of item ids (B, T), and which of them are in use: bool (B, T * G),
        or None if G is 1."""
        if self.per_item > 1:
            rows = self._rows(item_seq, self._masked(item_seq))
            x, keep = self.code_embedding(rows).flatten(1, 2), rows.flatten(1) != 0
            keep[:, 0] = True  # attention needs at least one key, even in an empty row
        else:
            sum_of_codes = self._sum_of_distinct if packs(item_seq) else self._sum_of_all
            x, keep = sum_of_codes(item_seq), None
            if self.item_embedding is not None:
                x = x + self.item_embedding(item_seq)
        if self.code_position is not None:
            x = x + self.code_position.weight.repeat(item_seq.size(1), 1)
        return x, keep

    def _rows(self, item_seq: Tensor, masked: Tensor | None) -> Tensor:
        """The rows (B, T, C) of `code_embedding` for items (B, T), some of whose modalities,
        (B, T, M), are masked."""
        rows = self.item_index[item_seq]
        if masked is not None:
            rows = torch.where(masked[..., self.modality_of], self.mask_layout, rows)
        return rows.long()

    def _sum_of_all(self, item_seq: Tensor) -> Tensor:
        """(B, T) -> (B, T, D), with tensor shapes that do not depend on the items."""
        masked = self._masked(item_seq)
        x = self.code_embedding(self._rows(item_seq, masked)).sum(-2)
        for column, name in enumerate(self.modalities):
            if name in self.vector_parts and name != self.left_out:
                part = self.vector_parts[name](item_seq)
                x = x + (part if masked is None else part * ~masked[..., column, None])
        return x

    def _sum_of_distinct(self, item_seq: Tensor) -> Tensor:
        """(B, T) -> (B, T, D). The codes of each distinct item are summed once per modality and
        then looked up, which is cheaper than summing them at every occurrence of the item."""
        items, place = item_seq.unique(return_inverse=True)  # (U,), (B, T)
        weight = self.code_embedding.weight
        rows = [
            embedding(index[items].long(), weight, padding_idx=0).sum(1)  # (U, D)
            for index in self.item_index.split(self.columns, dim=1)
        ]
        for column, name in enumerate(self.modalities):
            if name in self.vector_parts and name != self.left_out:
                rows[column] = rows[column] + self.vector_parts[name](items)
        table = torch.stack(rows, dim=1).flatten(0, 1)  # (U*M, D)
        modality = torch.arange(len(self.columns), device=item_seq.device)
        index = place.unsqueeze(-1) * len(self.columns) + modality  # (B, T, M)
        masked = self._masked(item_seq)
        if masked is not None:
            table = torch.cat([table, weight[self.mask_layout[self.first].long()]])
            index = torch.where(masked, len(items) * len(modality) + modality, index)
        return embedding(index, table).sum(-2)

    def _masked(self, item_seq: Tensor) -> Tensor | None:
        """Which modalities (B, T, M) to mask in training; None if none."""
        return self._random_mask(item_seq) if self.training and self.mask_prob > 0 else None

    def _random_mask(self, item_seq: Tensor) -> Tensor:
        """Which modalities (B, T, M) to mask: each at random, but never all of an item."""
        draw = torch.rand(*item_seq.shape, len(self.columns), device=item_seq.device)
        masked = draw < self.mask_prob
        # Of the modalities that an item has, keep the one with the largest draw. If any modality
        # is kept anyway, this one is.
        lacking = self.item_index[item_seq][..., self.first] == self.mask_layout[self.first]
        kept = draw.masked_fill(lacking, -1).argmax(dim=-1, keepdim=True)
        masked.scatter_(-1, kept, False)
        return masked & (item_seq != 0).unsqueeze(-1)


class VectorPart(nn.Module):
    """The contribution of one modality's vector to the token of an item: a linear map."""

    vectors: Tensor

    def __init__(self, vectors: Tensor, size: int) -> None:
        super().__init__()
        # Not saved here: the checkpoint holds the vectors with the code table. Half precision,
        # because for a large catalogue they take more memory than the weights, and three digits
        # suffice.
        self.register_buffer("vectors", vectors.half(), persistent=False)  # (N, D_m)
        self.map = nn.Linear(vectors.size(1), size, bias=False)

    def forward(self, items: Tensor) -> Tensor:
        """(U,) item ids -> (U, D)."""
        return self.map(self.vectors[items].to(self.map.weight.dtype))
