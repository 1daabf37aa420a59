"""The known items nearest to new ones, in the vectors of one modality."""

from __future__ import annotations

import torch

from recbole_mscgrec.semantic_ids.nearest_vectors import nearest_in_blocks
from recbole_mscgrec.semantic_ids.residual_kmeans import nearest

Tensor = torch.Tensor
EXACT = 50_000  # up to this number of known items, all are compared
_PROBED = 4  # above it, only the groups of this many nearest codewords are searched


def nearest_known(vectors: Tensor, known: Tensor, k: int, codebook: Tensor | None) -> Tensor:
    """Rows (n, k) of the k vectors among `known` (N, D) nearest to each of `vectors` (n, D),
    nearest first; k is at most N.

    With more than 50,000 known vectors the search is approximate, as in an inverted file: the
    known vectors are grouped by their nearest codeword (K, D) of `codebook`, and only the groups
    of the 4 codewords nearest to an item are searched. Without a codebook all are compared.

    The result for an item does not depend on the other items.
    """
    if codebook is None or len(known) <= EXACT:
        everything = torch.arange(len(known))
        return _among(vectors.float(), known, everything, k)[1]
    vectors, codebook = vectors.float(), codebook.float()
    group = torch.cat([nearest(block.float(), codebook)[0] for block in known.split(1 << 16)])
    order = torch.argsort(group, stable=True)
    members = order.split(torch.bincount(group, minlength=len(codebook)).tolist())
    probed = torch.cdist(vectors, codebook).topk(min(_PROBED, len(codebook)), largest=False).indices
    found = torch.full((*probed.shape, k), -1)
    distance = torch.full((*probed.shape, k), torch.inf)
    for number, rows in enumerate(members):
        item, place = (probed == number).nonzero(as_tuple=True)
        if len(item) and len(rows):
            near = min(k, len(rows))
            distance[item, place, :near], found[item, place, :near] = _among(
                vectors[item], known, rows, near
            )
    best = distance.flatten(1).topk(k, largest=False).indices
    found = found.flatten(1).gather(1, best)
    few = (found < 0).any(dim=1).nonzero().flatten()  # their groups hold fewer than k
    if len(few):
        found[few] = nearest_known(vectors[few], known, k, None)
    return found


def _among(vectors: Tensor, known: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and rows of the k nearest among the given rows (m,) of `known`: (n, k)
    both."""
    distance, place = nearest_in_blocks(vectors, known[rows].float(), k)
    return distance, rows[place]
