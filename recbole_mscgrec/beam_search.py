"""Constrained beam search (paper: constrained decoding): a pure function over a step and a tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from recbole_mscgrec.prefix_tree import PrefixTree
from recbole_mscgrec.restriction import Restriction

Tensor = torch.Tensor

# step(level, codes, parents) -> logits (B, W, K_level). At level 0 codes and parents are None and W
# is 1; later they are (B, W): the codes just chosen and the beams they continue.
Step = Callable[[int, Tensor | None, Tensor | None], Tensor]


class Beams(NamedTuple):
    """Best items first. Where fewer than W items may be had, items is 0 and log_probs is -inf."""

    items: Tensor  # (B, W) long
    log_probs: Tensor  # (B, W) exact log-probability under the constrained model


def beam_search(
    step: Step,
    tree: PrefixTree,
    batch_size: int,
    beam_size: int,
    restriction: Restriction | None = None,
) -> Beams:
    """The `beam_size` most likely items that a beam of that width finds, for each of B rows.

    At every level a beam's distribution is the softmax over the children of its node, so each
    result is a real item, results are distinct, and with a beam as wide as the catalogue the search
    is exhaustive. A restriction takes away nodes that lead to no allowed item; log-probabilities
    stay those of the whole catalogue, so the results are the best of the allowed items.
    """
    device = tree.leaf_item.device
    nodes = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    codes = parents = None
    for level in range(tree.n_levels):
        if level > tree.last_choice:  # one child each from here on, of probability one
            nodes = tree.first[level][nodes]
            continue
        logits = step(level, codes, parents).float()  # (B, W, K)
        if tree.dense[level] is not None and restriction is None:
            expanded = _expand_dense(tree, level, nodes, scores, logits, beam_size)
        else:
            expanded = _expand_listed(tree, level, nodes, scores, logits, beam_size, restriction)
        scores, parents, codes, nodes = expanded
    items = tree.leaf_item[nodes].long().masked_fill(scores == -torch.inf, 0)
    return _pad(Beams(items, scores), beam_size)


# scores, parents, codes and nodes of the chosen children, each (B, W')
Expanded = tuple[Tensor, Tensor, Tensor, Tensor]


def _expand_listed(
    tree: PrefixTree,
    level: int,
    nodes: Tensor,
    scores: Tensor,
    logits: Tensor,
    beam_size: int,
    restriction: Restriction | None,
) -> Expanded:
    """Candidates are the listed children (B, W, C) of every beam."""
    children = tree.children(level, nodes)
    log_probs = logits.gather(-1, children.codes).masked_fill_(~children.valid, -torch.inf)
    log_probs = log_probs.log_softmax(dim=-1)
    if restriction is not None:
        leads_on = restriction.leads_on(*tree.leaves(level + 1, children.nodes))
        log_probs = log_probs.masked_fill_(~leads_on, -torch.inf)
    scores, chosen = _choose(scores, log_probs, beam_size)
    codes = children.codes.flatten(1).gather(1, chosen)
    return (
        scores,
        chosen // log_probs.size(-1),
        codes,
        children.nodes.flatten(1).gather(1, chosen),
    )


def _expand_dense(
    tree: PrefixTree,
    level: int,
    nodes: Tensor,
    scores: Tensor,
    logits: Tensor,
    beam_size: int,
) -> Expanded:
    """Candidates are all codewords (B, W, K), masked: cheaper where most of them lead on."""
    allowed = tree.dense[level][nodes]
    logits = logits[..., : allowed.size(-1)]  # codewords behind the last one that any item uses
    log_probs = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
    scores, chosen = _choose(scores, log_probs, beam_size)
    parents, codes = chosen // log_probs.size(-1), chosen % log_probs.size(-1)
    return scores, parents, codes, tree.child(level, nodes.gather(1, parents), codes)


def _choose(scores: Tensor, log_probs: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    """The best (B, W') of the candidates (B, W, C). A beam that died holds -inf and so do its
    children."""
    candidates = (log_probs + scores.unsqueeze(-1)).flatten(1)
    return candidates.topk(min(beam_size, candidates.size(1)), dim=1)


def _pad(beams: Beams, width: int) -> Beams:
    missing = width - beams.items.size(1)
    if missing <= 0:
        return beams
    return Beams(
        torch.nn.functional.pad(beams.items, (0, missing)),
        torch.nn.functional.pad(beams.log_probs, (0, missing), value=-torch.inf),
    )
