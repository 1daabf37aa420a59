"""Constrained beam search (paper: constrained decoding): a pure function over a step and a tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from recbole_mscgrec.semantic_ids.item_filter import Restriction
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor

# step(level, row, nodes, codes, parents) -> logits (P, K_level) for the P beams that still have a
# choice: `row` (P,), ascending, which of the B rows a beam belongs to, `nodes` (P,) its node in the
# tree (below 0: none), `codes` (P,) the codes just chosen, `parents` (P,) which beams of the last
# step, counted from 0, they continue. At level 0 there is one beam per row; codes and parents are
# None.
Step = Callable[[int, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


class Beams(NamedTuple):
    """Best items first. Where fewer than W items may be had, items is 0 and log_probs is -inf."""

    items: Tensor  # (B, W) long
    log_probs: Tensor  # (B, W) exact log-probability under the model


def beam_search(
    step: Step,
    tree: PrefixTree,
    batch_size: int,
    beam_size: int,
    restriction: Restriction | None = None,
    over_children: bool = True,
) -> Beams:
    """The `beam_size` most likely items that a beam of that width finds, for each of B rows.

    At every level a beam's distribution is the softmax over the children of its node, so each
    result is a real item, results are distinct, and with a beam as wide as the catalogue the search
    is exhaustive. A beam whose node leads to one item only is settled and costs nothing more. A
    restriction takes away nodes that lead to no allowed item; log-probabilities stay those of the
    whole catalogue, so the results are the best of the allowed items.

    Not `over_children`, the softmax runs over all codewords of a level, as a model that was trained
    without the constraint has learned it, and codes without an item are left out afterwards.
    """
    device = tree.leaf_item.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    codes = parents = None  # (B, W) each
    for level in range(tree.n_levels):
        start, end = tree.leaves(level, nodes)
        unsettled = scores > -torch.inf
        if over_children:  # the only child has probability one
            unsettled &= end - start > 1
        unsettled = unsettled.flatten()
        place = unsettled.nonzero().flatten()  # (P,) in the flattened (B, W)
        if len(place) == 0:
            nodes = start
            break
        row = place // nodes.size(1)
        if codes is not None and parents is not None:
            codes, parents = codes.flatten()[place], parents.flatten()[place]
        parent_nodes = nodes.flatten()[place]
        logits = step(level, row, parent_nodes, codes, parents).float()  # (P, K)
        log_probs, listed = _child_log_probs(
            tree, level, parent_nodes, row, logits, restriction, over_children
        )
        grown = _all_beams(log_probs, place, nodes.shape) + scores.unsqueeze(-1)  # (B, W, C)
        n_children = grown.size(-1)
        scores, chosen = grown.flatten(1).topk(min(beam_size, grown[0].numel()), dim=1)
        beam, child = chosen // n_children, chosen % n_children
        parents = (unsettled.cumsum(0) - 1).view_as(nodes).gather(1, beam)
        nodes = nodes.gather(1, beam)
        nodes = tree.nth_child(level, nodes, child) if listed else tree.child(level, nodes, child)
        codes = tree.code[level][nodes].long()
    items = tree.leaf_item[nodes].long().masked_fill(scores == -torch.inf, 0)
    return _pad(Beams(items, scores), beam_size)


def _child_log_probs(
    tree: PrefixTree,
    level: int,
    nodes: Tensor,
    row: Tensor,
    logits: Tensor,
    restriction: Restriction | None,
    over_children: bool,
) -> tuple[Tensor, bool]:
    """Log-softmax (P, C) of the children of nodes (P,) from logits (P, K); -inf where none is.

    C counts the listed children (then the second result is True), or all codewords, masked, which
    is cheaper where most of them lead on.
    """
    if not over_children:
        logits = logits.log_softmax(dim=-1)
    dense = tree.dense[level]
    if dense is not None and restriction is None:
        allowed = dense[nodes]
        logits = logits[:, : allowed.size(1)]  # codewords behind the last one that any item uses
        log_probs = logits.masked_fill(~allowed, -torch.inf)
        return log_probs.log_softmax(dim=-1) if over_children else log_probs, False
    children = tree.children(level, nodes, int(tree.n_children(level, nodes).max()))
    log_probs = logits.gather(-1, children.codes).masked_fill_(~children.valid, -torch.inf)
    if over_children:
        log_probs = log_probs.log_softmax(dim=-1)
    if restriction is not None:
        leads_on = restriction.leads_on(row, *tree.leaves(level + 1, children.nodes))
        log_probs = log_probs.masked_fill(~leads_on, -torch.inf)
    return log_probs, True


def _all_beams(log_probs: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """(P, C) -> (B, W, C): settled beams have one child, of probability one."""
    if len(place) < shape.numel():
        packed = log_probs
        log_probs = packed.new_full((shape.numel(), packed.size(1)), -torch.inf)
        log_probs[:, 0] = 0
        log_probs[place] = packed
    return log_probs.view(*shape, -1)


def _pad(beams: Beams, width: int) -> Beams:
    missing = width - beams.items.size(1)
    if missing <= 0:
        return beams
    return Beams(
        torch.nn.functional.pad(beams.items, (0, missing)),
        torch.nn.functional.pad(beams.log_probs, (0, missing), value=-torch.inf),
    )
