"""Requests to a model: histories, the items allowed for each, and reserved list positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from recbole_mscgrec.semantic_ids.item_filter import (
    AllowedItems,
    AllowedWithout,
    ExcludedItems,
    Restriction,
)
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
Pairs = list[tuple[int, float]]  # item id and log-probability, best first
_ROWS = 256  # histories per beam search
_MASK_CELLS = 1 << 26  # largest mask (B, N) of allowed items, with a row per history


class SubCatalogue(NamedTuple):
    """Allowed items that many requests share; made by `Recommender.sub_catalogue`."""

    mask: Tensor  # bool (N,)
    items: list[str]  # those of the Recommender, whose ids the mask is over


class Request(NamedTuple):
    """A history and its restrictions, as item ids."""

    history: list[int]  # oldest first
    excluded: list[int]  # may repeat
    # None: all items. Requests with the same allowed items share one object.
    allowed: list[int] | SubCatalogue | None


def batches(requests: Sequence[Request], n_ids: int) -> Iterator[list[int]]:
    """The positions of the requests that have a history, in batches whose masks of allowed items
    fit into memory."""
    places = [place for place, request in enumerate(requests) if request.history]
    shared = all(request.allowed is requests[0].allowed for request in requests)
    size = _ROWS if shared else max(1, min(_ROWS, _MASK_CELLS // n_ids))
    for start in range(0, len(places), size):
        yield places[start : start + size]


def allowed_mask(requests: Sequence[Request], usable: Tensor) -> Tensor:
    """The items allowed for the requests, before exclusions: bool (N,) if they are the same for all
    requests, else (B, N). `usable` (N,) is the mask of items that exist and are not removed."""
    first = requests[0].allowed
    if all(request.allowed is first for request in requests):
        return usable if first is None else usable & _mask(first, len(usable))
    masks = [
        usable if request.allowed is None else usable & _mask(request.allowed, len(usable))
        for request in requests
    ]
    return torch.stack(masks)


def n_left(requests: Sequence[Request], mask: Tensor) -> list[int]:
    """Number of items left for each request under a mask (N,) or (B, N), after exclusions."""
    rows = mask.expand(len(requests), -1)
    counts = mask.sum(-1).expand(len(requests)).tolist()
    return [
        int(count - row[index(sorted(set(request.excluded)))].sum())
        for request, row, count in zip(requests, rows, counts, strict=True)
    ]


def item_filter(tree: PrefixTree, requests: Sequence[Request], mask: Tensor) -> Restriction | None:
    """The item filter for a mask (N,) or (B, N) and the exclusions; None if all items are
    allowed."""
    everything, gone = bool(mask[..., 1:].all()), padded([each.excluded for each in requests])
    if gone.size(1) == 0:
        return None if everything else AllowedItems(tree, mask)
    return ExcludedItems(tree, gone) if everything else AllowedWithout(tree, mask, gone)


def padded(lists: Sequence[Sequence[int]]) -> Tensor:
    """Lists of ids as (B, longest), padded with 0."""
    width = max((len(each) for each in lists), default=0)
    return torch.tensor([[*each, *[0] * (width - len(each))] for each in lists], dtype=torch.long)


def index(ids: Sequence[int]) -> Tensor:
    """Ids as a tensor, which may be empty."""
    return torch.tensor(list(ids), dtype=torch.long)


def _mask(items: Sequence[int] | SubCatalogue, n_ids: int) -> Tensor:
    if isinstance(items, SubCatalogue):
        return items.mask
    return torch.zeros(n_ids, dtype=torch.bool).index_fill(0, index(items), True)


def mixed(found: Pairs, cold: Pairs, top: int, share: float) -> Pairs:
    """A list of `top` items with positions reserved for cold items. Position n, from 1, is reserved
    wherever n * share reaches another integer. It gets the best remaining cold item, if there is
    one; the other positions get the best remaining item of all."""
    chosen: Pairs = []
    used: set[int] = set()
    best, added = iter(found), iter(cold)
    for place in range(1, top + 1):
        reserved = math.floor(place * share + 1e-9) > math.floor((place - 1) * share + 1e-9)
        for source in (added, best) if reserved else (best,):
            pair = next((pair for pair in source if pair[0] not in used), None)
            if pair is not None:
                used.add(pair[0])
                chosen.append(pair)
                break
    return chosen
