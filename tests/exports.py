"""Exports of tiny models with random weights."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from tiny import code_table, learned_ids, network_sizes

from recbole_mscgrec.network.model import CodeNetwork, Sizes
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.transitions.model import Transitions

N = 24  # items


def transitions(n_items: int, seed: int = 0, n_rules: int = 3) -> Transitions:
    """Rules of every item but the last one; texts of all but items 2 and 3."""
    draw = torch.Generator().manual_seed(seed)
    count = torch.full((n_items,), n_rules)
    count[0] = count[-1] = 0
    start = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)])
    item = torch.randint(1, n_items, (int(start[-1]),), generator=draw, dtype=torch.int32)
    weight = torch.rand(len(item), generator=draw)
    sums = torch.zeros(n_items).index_add(0, torch.arange(n_items).repeat_interleave(count), weight)
    text = torch.nn.functional.normalize(torch.randn(n_items, 4, generator=draw), dim=1).half()
    text[[0, 2, 3]] = 0
    share = 0.4 * text.any(1).float()
    weight = weight / sums.repeat_interleave(count) * (1 - share.repeat_interleave(count))
    popularity = torch.rand(n_items, generator=draw)
    popularity[0] = 0
    return Transitions(start, item, weight, popularity / popularity.sum(), text, share)


def tiny_export(seed: int = 0, **changes: Any) -> Export:
    """An export with random weights: 24 items a0, a1, ... with codes of three levels. `changes` are
    fields of `Sizes` or of `Export`."""
    table = code_table(N + 1, seed=seed)
    known = {each.name for each in fields(Sizes)} & changes.keys()
    sizes = network_sizes(**{name: changes.pop(name) for name in known})
    torch.manual_seed(seed)
    learned = learned_ids(sizes.learned_items, N)
    network = CodeNetwork(table, sizes, changes.get("vectors"), learned)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    given = dict(
        table=table,
        network=sizes,
        weights=network.state_dict(),
        items=[f"a{i}" for i in range(N)],
        titles=[f"Title {i}" for i in range(N)],
        popularity=torch.tensor([0, *range(N)]),
        removed=torch.zeros(N + 1, dtype=torch.bool),
        added_in=torch.zeros(N + 1, dtype=torch.int32),
        vectors={},
        beam_size=8,
        constrained=True,
        max_history=5,
        learned=learned,
    )
    return Export(**{**given, **changes})
