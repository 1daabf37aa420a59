"""The distribution of the next item according to sequential rules and texts. It needs neither
RecBole nor the data set, because the rules are tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from recbole_mscgrec.network.unpad import packs
from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
N_LAST_ITEMS = 10  # number of items at the end of a history whose rules are used
RECENCY_DECAY = 0.7  # factor of an item's weight for each step back in the history
_SCORES_AT_ONCE = 1 << 24  # 64 MB
_SMOOTHING = 0.01  # share of the probability that is distributed by popularity
_COSINE_POWER = 2  # exponent of the cosine of two texts, so that weak similarity hardly counts


class Transitions(NamedTuple):
    """Rules a -> b of N items with the padding item 0, R in all, and the items' texts."""

    start: Tensor  # long (N + 1,): the rules of item a are start[a] to start[a + 1] - 1
    item: Tensor  # int32 (R,): b
    weight: Tensor  # float32 (R,): the weights of an item's rules sum to 1 - text_share
    popularity: Tensor  # float32 (N,), sums to 1
    text: Tensor  # half (N, D): vectors of unit length; zero for items without text
    text_share: Tensor  # float32 (N,): how much the text of an item counts, from 0 to 1

    @classmethod
    def of(cls, parts: Mapping[str, Tensor], n_items: int, source: object) -> Transitions:
        """The transitions made of named tensors, on the CPU. Raises UserError, which names the
        source, if they are not valid for N = `n_items`."""
        found = cls(**{name: parts[name].cpu() for name in cls._fields})
        if text := found.fault(n_items):
            raise UserError(f"{source} is damaged: {text}.")
        return found

    def fault(self, n_items: int) -> str:
        """Why these are not valid transitions for N = `n_items`; '' if they are."""
        n_rules, of_items = len(self.item), (self.popularity, self.text, self.text_share)
        if len(self.start) != n_items + 1 or any(len(part) != n_items for part in of_items):
            return f"its transitions are not those of {n_items - 1} items"
        bounds = self.start[0] == 0 and self.start[-1] == n_rules == len(self.weight)
        if not bounds or (self.start.diff() < 0).any():
            return "the rules of its transitions have wrong bounds"
        if n_rules and not 0 < int(self.item.min()) <= int(self.item.max()) < n_items:
            return "a rule of its transitions names an item that does not exist"
        return ""

    def with_items(self, n: int, text: Tensor | None = None) -> Transitions:
        """The transitions with n more items, which no user has interacted with yet.

        Args:
            text: (n, D) vectors of their texts; None: they have no text.
        """
        vectors = self.text.new_zeros(n, self.text.size(1))
        if text is not None and self.text.any():
            vectors = nn.functional.normalize(text.float(), dim=1).to(vectors.dtype)
        rarest = self.popularity[1:].min().expand(n)
        popularity = torch.cat([self.popularity, rarest])
        return self._replace(
            start=torch.cat([self.start, self.start[-1:].expand(n)]),
            popularity=popularity / popularity.sum(),
            text=torch.cat([self.text, vectors]),
            text_share=torch.cat([self.text_share, vectors.any(1).to(self.text_share)]),
        )


def in_parts(score: Callable[[Any], Tensor], rows: Any, n_rows: int, n_items: int) -> Tensor:
    """The result (n,) of `score(rows)` for n rows, computed in parts that bound the memory: `score`
    makes a distribution over all items for each row, and sampled candidates can be many rows."""
    most = max(1, _SCORES_AT_ONCE // n_items)
    if n_rows <= most:
        return score(rows)
    return torch.cat([score(rows[first : first + most]) for first in range(0, n_rows, most)])


class TransitionModel(nn.Module):
    """Sequential Rules (Ludewig and Jannach, "Evaluation of session-based recommendation
    algorithms", 2018), combined with the similarity of texts.

    Each item has a distribution over the next item: that of its rules and, with the weight
    `text_share`, one given by the cosine of its text to all other texts. The prediction for a
    history is the mean of the distributions of its last items, weighted by `recency_decay` ** age
    and smoothed by popularity. An item without rules and text is skipped; if no item is left, only
    popularity counts.

    The tensors are buffers; nothing is learned.

    Args:
        n_last_items: number of items at the end of a history that are used.
        recency_decay: factor of an item's weight for each step back in the history.
        persistent: whether the buffers are part of the state_dict.
    """

    start: Tensor
    item: Tensor
    weight: Tensor
    popularity: Tensor
    text: Tensor
    text_share: Tensor

    def __init__(
        self,
        transitions: Transitions,
        n_last_items: int = N_LAST_ITEMS,
        recency_decay: float = RECENCY_DECAY,
        persistent: bool = False,
    ) -> None:
        super().__init__()
        self.n_last, self.decay = n_last_items, recency_decay
        in_use = transitions._replace(text=transitions.text.float())
        for name, tensor in in_use._asdict().items():
            self.register_buffer(name, tensor, persistent=persistent)
        self.n_items = len(transitions.popularity)
        self._most_rules = int(transitions.start.diff().max())  # largest number for one item

    def forward(self, item_seq: Tensor, length: Tensor, texts: bool = True) -> Tensor:
        """The probability of every item to follow histories (B, T) with lengths (B,). Returns
        (B, N) with rows that sum to 1, and 0 for padding. Without `texts`, only rules count."""
        items, share = self._last_items(item_seq, length)
        found = self._by_rules(items, share)
        if texts:
            found = found + self._by_text(items, share)
        mass = found.sum(1, keepdim=True)
        popular = torch.where(mass > 0, _SMOOTHING, 1.0)
        return (1 - popular) * found / mass.clamp(min=1e-12) + popular * self.popularity

    def prior(
        self, tree: PrefixTree, item_seq: Tensor, length: Tensor, weight: float, texts: bool = True
    ) -> ItemPrior:
        """The distributions of `forward` over the nodes of a prefix tree, with their weight."""
        with torch.autocast(item_seq.device.type, enabled=False):
            return ItemPrior(tree, self(item_seq, length, texts), weight)

    def _last_items(self, item_seq: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """The last items of each history, newest first, and their weights, which sum to 1 or, in an
        empty history, to 0: (B, n) both."""
        age = torch.arange(self.n_last, device=item_seq.device)
        place = length.unsqueeze(1) - 1 - age
        weight = torch.where(place >= 0, self.decay**age, 0.0)
        items = item_seq.gather(1, place.clamp(min=0)) * (place >= 0)
        return items, weight / weight.sum(1, keepdim=True).clamp(min=1e-12)

    def _by_rules(self, items: Tensor, share: Tensor) -> Tensor:
        """The contribution (B, N) of the rules of items (B, n) with weights `share` (B, n)."""
        found = share.new_zeros(len(items), self.n_items)
        first, end = self.start[items], self.start[items + 1]  # (B, n)
        width = int((end - first).max()) if packs(items) and len(items) else self._most_rules
        if not width:
            return found
        rank = torch.arange(width, device=items.device)
        for age in range(items.size(1)):  # one after the other, to bound the memory
            rule = first[:, age : age + 1] + rank  # (B, width)
            real = rule < end[:, age : age + 1]
            rule = rule.clamp(max=len(self.item) - 1)
            weight = self.weight[rule] * real * share[:, age : age + 1]
            found.scatter_add_(1, self.item[rule].long(), weight)
        return found

    def _by_text(self, items: Tensor, share: Tensor) -> Tensor:
        """The contribution (B, N) of the texts of items (B, n). The items themselves get nothing:
        how often an item is repeated is known from its rules."""
        weight = share * self.text_share[items]
        mean = (weight.unsqueeze(2) * self.text[items]).sum(1)  # (B, D)
        cosines = nn.functional.normalize(mean, dim=1) @ self.text.T
        similar = (cosines.clamp(min=0) ** _COSINE_POWER).scatter(1, items, 0.0)
        sums = similar.sum(1, keepdim=True).clamp(min=1e-12)
        return similar / sums * weight.sum(1, keepdim=True)
