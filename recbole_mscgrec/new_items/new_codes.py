"""Codes of new items in all modalities, from their vectors and the known items of an export."""

from __future__ import annotations

from typing import NamedTuple

import torch

from recbole_mscgrec.features.fusion import centred
from recbole_mscgrec.new_items.item_encoders import ItemEncoders, Vectors
from recbole_mscgrec.new_items.kept_encoders import quantizer_of
from recbole_mscgrec.new_items.nearest import nearest_known
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING, CodeTable
from recbole_mscgrec.semantic_ids.new_items import codes_near, codes_of_vectors
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.item_codes import NEIGHBOURS

Tensor = torch.Tensor


class NewCodes(NamedTuple):
    """The codes and vectors of n new items, which the network reads."""

    codes: dict[str, Tensor]  # modality -> long (n, L_m); those of the target are unique
    vectors: dict[str, Tensor]  # modality -> float32 (n, D_m), for `history_vectors`


def new_codes(
    encoders: ItemEncoders,
    table: CodeTable,
    found: dict[str, Vectors],
    features: dict[str, Tensor] | None,
) -> NewCodes:
    """Codes of n new items with the vectors `found`, which each has in at least one modality.

    In the target modality an item gets the free leaf nearest to its vector. If it has no vector
    there, the mean vector of the five nearest known items takes its place; they are found by the
    item's first modality that known items have too. If the target has no codebooks, the item gets
    the free leaf near the nearest known item's code. In the other modalities it gets its own code,
    or MISSING.

    Args:
        table: codes of the known items.
        features: see `kept_encoders`; None if the target is fused.

    Raises:
        UserError: there are too few free leaves, or no known item has both an item's modality and
            the target.
    """
    comparable = _comparable(encoders, found)
    target = _target(encoders, table, found, comparable, features or {})
    codes: dict[str, Tensor] = {}
    for name, known in table.codes.items():
        codes[name] = torch.full((len(target), known.size(1)), MISSING)
        quantizer = _quantizer(encoders, table, name)
        if name in found and quantizer:
            rows = found[name].present
            codes[name][rows, : len(quantizer.codebooks)] = quantizer.encode(
                found[name].vectors[rows]
            )
    codes[table.target] = target
    return NewCodes(codes, comparable)


def _comparable(encoders: ItemEncoders, found: dict[str, Vectors]) -> dict[str, Tensor]:
    """As `features.fusion.comparable`, with the mean over the items of the training."""
    result: dict[str, Tensor] = {}
    n = len(next(iter(found.values())).present)
    for name, width in encoders.plan["widths"].items():
        result[name] = torch.zeros(n, width)
        if name in found:
            rows = found[name].present
            mean = encoders.tensors[f"mean.{name}"]
            result[name][rows] = centred(found[name].vectors[rows], mean)
    return result


def _quantizer(encoders: ItemEncoders, table: CodeTable, name: str) -> ResidualQuantizer | None:
    codebook = encoders.tensors.get(f"codebook.{name}")
    if codebook is None:
        return None
    return quantizer_of(codebook, table.sizes[name][: encoders.plan["content_levels"][name]])


def _target(
    encoders: ItemEncoders,
    table: CodeTable,
    found: dict[str, Vectors],
    comparable: dict[str, Tensor],
    features: dict[str, Tensor],
) -> Tensor:
    """Unique target codes (n, L)."""
    name, sizes, taken = table.target, table.sizes[table.target], table.target_codes
    quantizer, n = _quantizer(encoders, table, name), len(next(iter(found.values())).present)
    if quantizer is None:
        nearest = _nearest(encoders, table, found, features, n, 1)[:, 0]
        n_levels = encoders.plan["content_levels"][name]
        return codes_near(table.codes[name][nearest, :n_levels], sizes, taken)
    if name == FUSED:
        vectors = torch.cat(list(comparable.values()), dim=1)
        return codes_of_vectors(vectors, quantizer.codebooks, sizes, taken)
    vectors, lacking = torch.zeros(n, quantizer.codebooks[0].size(1)), torch.ones(n).bool()
    if name in found:
        vectors, lacking = found[name].vectors.clone(), ~found[name].present
    if lacking.any():
        others = {k: Vectors(v.vectors[lacking], v.present[lacking]) for k, v in found.items()}
        others.pop(name, None)
        nearest = _nearest(encoders, table, others, features, int(lacking.sum()), NEIGHBOURS)
        near = features[f"vectors.{name}"][nearest.clamp(min=0)].float()  # (m, k, D)
        real = (nearest >= 0).unsqueeze(-1)
        vectors[lacking] = (near * real).sum(1) / real.sum(1)
    return codes_of_vectors(vectors, quantizer.codebooks, sizes, taken)


def _nearest(
    encoders: ItemEncoders,
    table: CodeTable,
    found: dict[str, Vectors],
    features: dict[str, Tensor],
    n: int,
    k: int,
) -> Tensor:
    """Ids (n, k) of the known items nearest to each new one, by the target or else the first
    modality that the new item has; -1 if there are fewer than k. If the target has vectors, only
    known items with one are searched."""
    result, left = torch.full((n, k), -1), torch.ones(n, dtype=torch.bool)
    own = features.get(f"present.{table.target}")
    for name in sorted(found, key=lambda name: name != table.target):
        vectors, present = found[name]
        rows = (left & present).nonzero().flatten()
        usable = features[f"present.{name}"].clone()
        usable[0] = False
        if own is not None:
            usable &= own
        ids = usable.nonzero().flatten()
        if not len(rows) or not len(ids):
            continue
        codebook = _quantizer(encoders, table, name)
        first = codebook.codebooks[0] if codebook else None
        known = features[f"vectors.{name}"][ids]
        places = nearest_known(vectors[rows], known, min(k, len(ids)), first)
        result[rows, : places.size(1)] = ids[places]
        left[rows] = False
    if left.any():
        raise UserError(
            f"{int(left.sum())} new items cannot get a code in {table.target}: no known item has "
            f"both a code there and {' or '.join(found) or 'another modality'}."
        )
    return result
