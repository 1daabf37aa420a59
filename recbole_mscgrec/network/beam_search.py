"""Constrained beam search (paper: constrained decoding) over a prefix tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from recbole_mscgrec.network.unpad import packs, positions
from recbole_mscgrec.semantic_ids.item_filter import Restriction
from recbole_mscgrec.semantic_ids.item_prior import ItemPrior
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor

# step(level, row, nodes, codes, parents) -> logits (P, K_level) for the P beams that still have a
# choice. All arguments except `level` have shape (P,): `row`, ascending, is the batch row of each
# beam; `nodes` is its node in the tree, negative where it has none; `codes` are the codes chosen at
# the previous level; `parents` are the positions, in the previous step, of the beams that these
# beams continue. At level 0 there is one beam per row, and codes and parents are None.
Step = Callable[[int, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


class Beams(NamedTuple):
    """The best items, in descending order. Lists with fewer than W items are padded with item 0,
    whose log-probability is -inf."""

    items: Tensor  # (B, W) long
    log_probs: Tensor  # (B, W) exact log-probability under the model


def beam_search(
    step: Step,
    tree: PrefixTree,
    batch_size: int,
    beam_size: int,
    restriction: Restriction | None = None,
    over_children: bool = True,
    prior: ItemPrior | None = None,
) -> Beams:
    """The most likely items that a beam of width `beam_size` finds, for each row of a batch.

    At every level, the distribution of a beam is the softmax over the children of its node. So
    every result is a real item, the results are distinct, and a beam as wide as the catalogue makes
    the search exhaustive. A beam whose node leads to a single item is settled: it needs no further
    steps, although a GPU computes them anyway (see `packs`).

    Args:
        step: computes the logits of one level.
        tree: the catalogue.
        restriction: removes the nodes that lead to no allowed item. The log-probabilities are still
            those over the whole catalogue, so the results are the best allowed items.
        over_children: if False, the softmax runs over all codewords of a level, as in a model that
            was trained without the constraint. Codes that lead to no item are then removed.
        prior: combined with the scores of all children; needs `over_children`.
    """
    device = tree.leaf_item.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    codes = parents = None  # (B, W) each
    for level in range(tree.n_levels):
        unsettled = _unsettled(tree, level, nodes, scores, over_children)
        place = positions(unsettled)  # (P,) in the flattened (B, W)
        if len(place) == 0 or (over_children and level > tree.last_choice):
            nodes, _ = tree.leaves(level, nodes)
            break
        row = place // nodes.size(1)
        if codes is not None and parents is not None:
            codes, parents = codes.flatten()[place], parents.flatten()[place]
        parent_nodes = nodes.flatten()[place]
        logits = step(level, row, parent_nodes, codes, parents).float()  # (P, K)
        log_probs, listed = _child_log_probs(
            tree, level, parent_nodes, row, logits, restriction, over_children, prior
        )
        scores, beam, child = _best_children(log_probs, place, scores, beam_size)
        parents = (unsettled.cumsum(0) - 1).view_as(nodes).gather(1, beam)
        nodes = nodes.gather(1, beam)
        nodes = tree.nth_child(level, nodes, child) if listed else tree.child(level, nodes, child)
        codes = tree.code[level][nodes].long()
    items = tree.leaf_item[nodes].long().masked_fill(scores == -torch.inf, 0)
    return _pad(Beams(items, scores), beam_size)


def _unsettled(
    tree: PrefixTree, level: int, nodes: Tensor, scores: Tensor, over_children: bool
) -> Tensor:
    """Which of the beams (B, W) still have a choice and must be computed: bool (B * W,)."""
    if not packs(nodes):
        return torch.ones_like(nodes, dtype=torch.bool).flatten()
    alive = scores > -torch.inf
    if over_children:  # the only item below a node has probability one
        start, end = tree.leaves(level, nodes)
        alive &= end - start > 1
    return alive.flatten()


def _child_log_probs(
    tree: PrefixTree,
    level: int,
    nodes: Tensor,
    row: Tensor,
    logits: Tensor,
    restriction: Restriction | None,
    over_children: bool,
    prior: ItemPrior | None,
) -> tuple[Tensor, bool]:
    """Log-softmax (P, C) over the children of nodes (P,) from logits (P, K), and whether the
    columns are the children.

    If they are not, the columns are all codewords, -inf where there is no child. This is cheaper
    where most codewords have one.
    """
    if not over_children:
        logits = logits.log_softmax(dim=-1)
    dense = tree.dense[level]
    if dense is not None and restriction is None and prior is None:
        allowed = dense[nodes]
        logits = logits[:, : allowed.size(1)]  # drop the codewords after the last used one
        log_probs = logits.masked_fill(~allowed, -torch.inf)
        return log_probs.log_softmax(dim=-1) if over_children else log_probs, False
    width = int(tree.n_children(level, nodes).max()) if packs(nodes) else None
    children = tree.children(level, nodes, width)
    scores = logits.gather(-1, children.codes)
    if prior is not None:
        scores = prior.select(row).mixed(level, scores, children)
    log_probs = scores.masked_fill_(~children.valid, -torch.inf)
    if over_children:
        log_probs = log_probs.log_softmax(dim=-1)
    if restriction is not None:
        leads_on = restriction.leads_on(row, *tree.leaves(level + 1, children.nodes))
        log_probs = log_probs.masked_fill(~leads_on, -torch.inf)
    return log_probs, True


def _best_children(
    log_probs: Tensor, place: Tensor, scores: Tensor, beam_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of the beams of each row: their scores, the beam that each one
    continues, and which of its children it is, (B, W) each."""
    grown = _all_beams(log_probs, place, scores.shape) + scores.unsqueeze(-1)  # (B, W, C)
    scores, chosen = grown.flatten(1).topk(min(beam_size, grown[0].numel()), dim=1)
    return scores, chosen // grown.size(-1), chosen % grown.size(-1)


def _all_beams(log_probs: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """Log-probabilities of the computed beams (P, C) -> those of all beams (B, W, C). A settled
    beam has one child, with probability one."""
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
