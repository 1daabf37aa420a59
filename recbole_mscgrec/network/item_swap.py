"""Items of alike codes stand in for each other in training: a history with a neighbour in an item's
place means nearly the same, which keeps sparse data from being learned by heart."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable

Tensor = torch.Tensor
_REACH = 5  # neighbours on either side


class Neighbours(nn.Module):
    """Replaces items (B, T) by neighbours at random; padding stays.

    In every modality items are sorted by code. A neighbour stands at most five places away and
    shares the first codeword; those that share more stand next to each other.

    Args:
        table: the codes.
        prob: chance that an item is replaced, by a neighbour in a modality drawn at random. It
            stays where it lacks that modality, and where nobody shares its first codeword on the
            side that is drawn.
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
            order = order[(first[order] != MISSING) & (order != 0)]  # (n,) items in order of codes
            orders.append(order)
            place[order, column] = offset + np.arange(len(order))
            begin[order, column] = offset + np.searchsorted(first[order], first[order], "left")
            end[order, column] = offset + np.searchsorted(first[order], first[order], "right")
            offset += len(order)
        # Derived from the code table, which a checkpoint holds as it is. Place 0 holds no item.
        for name, array in (
            ("order", np.concatenate(orders)),  # (1 + sum of n,) items
            ("place", place),  # (N, M) where an item stands in `order`; 0: it lacks the modality
            ("begin", begin),  # (N, M) where the items of its first codeword begin there
            ("end", end),  # (N, M) and end
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, item_seq: Tensor) -> Tensor:
        """(B, T) -> (B, T)."""
        shape, device = item_seq.shape, item_seq.device
        swapped = torch.rand(shape, device=device) < self.prob
        modality = torch.randint(self.place.size(1), shape, device=device)
        step = torch.randint(1, _REACH + 1, shape, device=device)
        step = torch.where(torch.rand(shape, device=device) < 0.5, step, -step)
        place = self.place[item_seq, modality]
        other = (place + step).maximum(self.begin[item_seq, modality])
        other = other.minimum(self.end[item_seq, modality] - 1)
        return torch.where(swapped & (place > 0), self.order[other], item_seq)
