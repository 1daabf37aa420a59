"""Initial weights of the sequence model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


def initialize(network: Any, codes: Tensor) -> None:
    """Initialize the weights of a CodeNetwork for the target codes (N-1, L)."""
    draw_weights(network)
    if network.history.vector_parts:
        begin_at_vectors(network, codes)


@torch.no_grad()
def draw_weights(network: Any) -> None:
    """Draw the weights of a CodeNetwork: the elements of item tokens have variance 1, and the
    outputs of all sublayers together are about as large. If the layers are larger, they drown out
    the codes, and training is slower."""
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight, std=module.weight.size(1) ** -0.5)
    codes, n_summed = network.history.code_embedding.weight, sum(network.history.columns)
    nn.init.normal_(codes, std=(n_summed // network.history.per_item) ** -0.5)
    blocks = [*network.encoder, *network.decoder]
    n_sublayers = sum(len(block.output_layers()) for block in blocks)
    codes[0].zero_()
    for learned in learned_vectors(network):  # zero: items that training never sees keep codes only
        learned.weight.zero_()
    for layer in [layer for block in blocks for layer in block.output_layers()]:
        layer.weight.mul_(n_sublayers**-0.5)


def learned_vectors(network: Any) -> list[nn.Embedding]:
    """The embedding tables of `learned_items` in a CodeNetwork; empty if there are none."""
    items, nodes = network.history.item_embedding, network.node_vectors
    return [] if nodes is None else [items, *nodes.levels]


@torch.no_grad()
def begin_at_vectors(network: Any, codes: Tensor) -> None:
    """Initialize a CodeNetwork whose tokens include vectors so that, before training, it ranks
    items by their similarity to the last item of the history.

    Tokens are half mapped vectors and half code embeddings. The codewords of the target codes
    (N-1, L) are the means of the mapped vectors of their items, and the first decoder token is the
    token of the last item.
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


def principal_maps(vectors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """A linear map (size, D_m) for each modality. Summed over the modalities of an item, their
    outputs are the first `size` principal components of the concatenated vectors, scaled to a root
    mean square of 1 about the mean. If there are fewer components, the other rows are zero."""
    joint = torch.cat(list(vectors.values()), dim=1)[1:].double()
    joint = joint - joint.mean(dim=0)
    values, axes = torch.linalg.eigh(joint.T @ joint)  # ascending
    axes = axes.flip(1)[:, :size]
    axes = torch.where(axes.sum(dim=0) < 0, -axes, axes)  # the sign of a component is arbitrary
    kept = values.flip(0)[:size].clamp(min=0).sum() / (len(joint) * size)
    maps = torch.zeros(size, joint.size(1))
    maps[: axes.size(1)] = (axes.T / kept.sqrt().clamp(min=1e-12)).float()
    return dict(zip(vectors, maps.split([v.size(1) for v in vectors.values()], dim=1), strict=True))


def codeword_means(vectors: Tensor, codes: Tensor, level_sizes: list[int]) -> Tensor:
    """Initial codewords for codes (n, L): (sum of K_l, D), level by level.

    As in residual quantization, a codeword is the mean, over its items, of the residuals of their
    vectors (n, D) after the earlier levels. It is zero if no item has it.
    """
    left, means = vectors.clone(), []
    for code, size in zip(codes.T, level_sizes, strict=True):
        count = torch.bincount(code, minlength=size).clamp(min=1).unsqueeze(1)
        mean = torch.zeros(size, vectors.size(1)).index_add_(0, code, left) / count
        means.append(mean)
        left = left - mean[code]
    return torch.cat(means)
