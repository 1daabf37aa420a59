"""Constrained beam search (paper: constrained decoding): a pure function over a step and a tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from recbole_mscgrec.prefix_tree import PrefixTree

Tensor = torch.Tensor

# step(level, codes, parents) -> logits (B, W, K_level). At level 0 codes and parents are None and W
# is 1; later they are (B, W): the codes just chosen and the beams they continue.
Step = Callable[[int, Tensor | None, Tensor | None], Tensor]


class Beams(NamedTuple):
    """Best items first. Where fewer than W items exist, items is 0 and log_probs is -inf."""

    items: Tensor  # (B, W) long
    log_probs: Tensor  # (B, W) exact log-probability under the constrained model


def beam_search(step: Step, tree: PrefixTree, batch_size: int, beam_size: int) -> Beams:
    """The `beam_size` most likely items that a beam of that width finds, for each of B rows.

    At every level a beam's distribution is the softmax over the children of its node, so each
    result is a real item, results are distinct, and with a beam as wide as the catalogue the search
    is exhaustive.
    """
    device = tree.leaf_item.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    codes = parents = None
    for level in range(tree.n_levels):
        logits = step(level, codes, parents)  # (B, W, K)
        children = tree.children(level, nodes)  # (B, W, C)
        child_logits = logits.float().gather(-1, children.codes)
        child_logits = child_logits.masked_fill(~children.valid, -torch.inf)
        # A beam that died holds -inf; its children stay at -inf.
        candidates = (scores.unsqueeze(-1) + child_logits.log_softmax(dim=-1)).flatten(1)
        width = min(beam_size, candidates.size(1))
        scores, chosen = candidates.topk(width, dim=1)  # (B, W')
        parents = chosen // children.codes.size(-1)
        codes = children.codes.flatten(1).gather(1, chosen)
        nodes = children.nodes.flatten(1).gather(1, chosen)
    items = tree.leaf_item[nodes].long().masked_fill(scores == -torch.inf, 0)
    return _pad(Beams(items, scores), beam_size)


def _pad(beams: Beams, width: int) -> Beams:
    missing = width - beams.items.size(1)
    if missing <= 0:
        return beams
    return Beams(
        torch.nn.functional.pad(beams.items, (0, missing)),
        torch.nn.functional.pad(beams.log_probs, (0, missing), value=-torch.inf),
    )
