"""Beam search that may leave the prefix tree: what the constraint in decoding is compared with."""

from __future__ import annotations

import torch

from recbole_mscgrec.network.beam_search import Beams, Step
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor
_OUTSIDE = -1  # in place of a node: the codes so far begin no item


def free_beam_search(
    step: Step, tree: PrefixTree, batch_size: int, beam_size: int, penalty: float = 0.0
) -> Beams:
    """The `beam_size` most likely code sequences of any kind that a beam of that width finds.

    A beam's distribution is the softmax over all codewords of a level. Leaving the tree costs
    `penalty` nats once: 0 is decoding without a constraint, a large one nearly the hard constraint.
    Sequences that are no item are counted in `n_invalid` and left out, so lists may be shorter.
    """
    device = tree.leaf_item.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    codes = parents = None  # (B * W,) each
    for level in range(tree.n_levels):
        width = nodes.size(1)
        row = torch.arange(batch_size, device=device).repeat_interleave(width)
        log_probs = step(level, row, nodes.flatten(), codes, parents).float().log_softmax(dim=-1)
        child = _children(tree, level, nodes.flatten(), log_probs.size(1))
        leaving = (child == _OUTSIDE) & (nodes.flatten() != _OUTSIDE).unsqueeze(1)
        grown = (log_probs - penalty * leaving).view(batch_size, width, -1) + scores.unsqueeze(-1)
        n_codes = grown.size(-1)
        scores, chosen = grown.flatten(1).topk(min(beam_size, width * n_codes), dim=1)
        nodes = child.reshape(batch_size, -1).gather(1, chosen)
        first = torch.arange(batch_size, device=device).unsqueeze(1) * width
        parents, codes = (first + chosen // n_codes).flatten(), (chosen % n_codes).flatten()
    invalid = nodes == _OUTSIDE
    items = tree.leaf_item[nodes.clamp(min=0)].long().masked_fill(invalid, 0)
    order = invalid.int().argsort(dim=1, stable=True)
    scores = scores.masked_fill(invalid, -torch.inf)
    return Beams(items.gather(1, order), scores.gather(1, order), invalid.sum(1))


def _children(tree: PrefixTree, level: int, nodes: Tensor, n_codes: int) -> Tensor:
    """(P, K) the child of each node (P,) by code; _OUTSIDE where none is."""
    inside = nodes != _OUTSIDE
    children = tree.children(level, nodes.clamp(min=0))
    spare = torch.full((len(nodes), n_codes + 1), _OUTSIDE, device=nodes.device)
    codes = children.codes.where(children.valid & inside.unsqueeze(1), n_codes)  # to be cut off
    return spare.scatter_(1, codes, children.nodes.long())[:, :n_codes]
