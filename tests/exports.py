"""Exports of tiny models with random weights."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from tiny import code_table, network_sizes

from recbole_mscgrec.network.model import CodeNetwork, Sizes
from recbole_mscgrec.serving.export_folder import Export

N = 24  # items


def tiny_export(seed: int = 0, **changes: Any) -> Export:
    """An export with random weights: 24 items a0, a1, ... with codes of three levels. `changes` are
    fields of `Sizes` or of `Export`."""
    table = code_table(N + 1, seed=seed)
    known = {each.name for each in fields(Sizes)} & changes.keys()
    sizes = network_sizes(**{name: changes.pop(name) for name in known})
    torch.manual_seed(seed)
    network = CodeNetwork(table, sizes, changes.get("vectors"))
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
    )
    return Export(**{**given, **changes})
