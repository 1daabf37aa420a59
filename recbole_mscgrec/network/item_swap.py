"""Data augmentation: in training, history items are replaced by items with similar codes. The
history still means nearly the same, and the model memorizes sparse data less."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable

Tensor = torch.Tensor
_REACH = 5  # neighbours on each side


class Neighbours(nn.Module):
    """Replaces random items in histories (B, T) by neighbours; padding is kept.

    In every modality, the items are sorted by code, so items that share more codewords are closer
    to each other. A neighbour is at most five positions away and shares the first codeword.

    Args:
        table: the codes.
        prob: probability of replacing an item by a neighbour in a random modality. The item is kept
            if it lacks that modality, or if no item on the drawn side shares its first codeword.
    """

    order: Tensor
    place: Tensor
    begin: Tensor
    end: Tensor

    def __init__(self, table: CodeTable, prob: float) -> None:
        super().__init__()
        self.prob = prob
        shape = (table.n_items, len(table.codes))
        place, begin = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        end = np.ones(shape, dtype=np.int64)
        orders, offset = [np.zeros(1, dtype=np.int64)], 1
        for column, codes in enumerate(table.codes.values()):
            first = codes[:, 0].numpy()
            order = np.lexsort(codes.numpy().T[::-1])
            order = order[(first[order] != MISSING) & (order != 0)]  # (n,) items sorted by code
            orders.append(order)
            place[order, column] = offset + np.arange(len(order))
            begin[order, column] = offset + np.searchsorted(first[order], first[order], "left")
            end[order, column] = offset + np.searchsorted(first[order], first[order], "right")
            offset += len(order)
        # Not saved: they follow from the code table, which is in the checkpoint. Position 0 holds
        # no item.
        for name, array in (
            ("order", np.concatenate(orders)),  # (1 + sum of n,) items
            ("place", place),  # (N, M) position of an item in `order`; 0: it lacks the modality
            ("begin", begin),  # (N, M) first position with its first codeword
            ("end", end),  # (N, M) end of these positions
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, item_seq: Tensor) -> Tensor:
        """Item ids (B, T) -> item ids (B, T)."""
        shape, device = item_seq.shape, item_seq.device
        swapped = torch.rand(shape, device=device) < self.prob
        modality = torch.randint(self.place.size(1), shape, device=device)
        step = torch.randint(1, _REACH + 1, shape, device=device)
        step = torch.where(torch.rand(shape, device=device) < 0.5, step, -step)
        place = self.place[item_seq, modality]
        other = (place + step).maximum(self.begin[item_seq, modality])
        other = other.minimum(self.end[item_seq, modality] - 1)
        return torch.where(swapped & (place > 0), self.order[other], item_seq)
