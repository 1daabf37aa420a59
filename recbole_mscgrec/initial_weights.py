"""Where training begins: the first weights of the sequence model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_mscgrec.item_vectors import codeword_means, principal_maps

Tensor = torch.Tensor


@torch.no_grad()
def draw_weights(network: Any) -> None:
    """Draw the weights of a CodeNetwork: item vectors of unit size, and sublayers that together add
    about as much to them. Smaller or larger, the codes drown in what the layers add and training
    is slower."""
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight, std=module.weight.size(1) ** -0.5)
    codes, n_summed = network.history.code_embedding.weight, sum(network.history.columns)
    nn.init.normal_(codes, std=(n_summed // network.history.per_item) ** -0.5)
    blocks = [*network.encoder, *network.decoder]
    n_sublayers = sum(len(block.output_layers()) for block in blocks)
    codes[0].zero_()
    for learned in learned_vectors(network):  # what training never shows stands by its codes alone
        learned.weight.zero_()
    for layer in [layer for block in blocks for layer in block.output_layers()]:
        layer.weight.mul_(n_sublayers**-0.5)
    if network.recurrent is not None:
        for name, weight in network.recurrent.layers.named_parameters():
            draw = nn.init.orthogonal_ if "weight_hh" in name else nn.init.xavier_uniform_
            for gate in weight.chunk(3) if weight.dim() > 1 else ():
                draw(gate)


def learned_vectors(network: Any) -> list[nn.Embedding]:
    """The tables of `learned_vectors` in a CodeNetwork; none where they are off."""
    items, nodes = network.history.item_embedding, network.node_vectors
    return [] if nodes is None else [items, *nodes.levels]


@torch.no_grad()
def begin_at_vectors(network: Any, codes: Tensor) -> None:
    """Let a drawn CodeNetwork whose tokens hold vectors begin as a nearest-neighbour search.

    Tokens are half the vectors' map and half codes; the codewords of the target codes (N-1, L) lie
    where the map puts them; the first decoder token is the last item. So an untrained network ranks
    items by how near they are to the last one, and learns from there.
    """
    parts, items = network.history.vector_parts, torch.arange(1, len(codes) + 1)
    size = network.target_embedding.embedding_dim
    maps = principal_maps({name: part.vectors for name, part in parts.items()}, size)
    for name, part in parts.items():
        part.map.weight.copy_(maps[name])
    vectors = torch.stack([part(items) for part in parts.values()]).sum(0)
    means = codeword_means(vectors, codes, network.level_sizes)
    network.target_embedding.weight.copy_(means * size**-0.5)
    if network.start_from_history is not None:
        nn.init.eye_(network.start_from_history.weight)
    for weight in (network.history.code_embedding.weight, *(p.map.weight for p in parts.values())):
        weight.mul_(0.5**0.5)
