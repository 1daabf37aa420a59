"""Makes the code table from the features of all modalities: quantization, unique target codes."""

from __future__ import annotations

from typing import Any

import torch

from recbole_mscgrec.config.settings import CodeSettings, MSCGRecSettings
from recbole_mscgrec.features.fusion import side_by_side
from recbole_mscgrec.semantic_ids import code_table
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING, CodeTable
from recbole_mscgrec.semantic_ids.collisions import add_collision_level, redistribute
from recbole_mscgrec.semantic_ids.nearest_vectors import nearest_vectors
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.modalities import Features

Tensor = torch.Tensor
EXTRA_LEVEL, REDISTRIBUTE = "extra_level", "redistribute"  # the choices of `collision`
NEIGHBOURS = 5  # number of items whose mean vector replaces a missing vector of the target


def fused(vectors: dict[str, Tensor], features: dict[str, Features]) -> Features:
    """The features of the fused target: the concatenated vectors of all modalities, for the items
    that have any. Raises UserError if there are no vectors."""
    if not vectors:
        raise UserError(
            "target_modality fused needs vectors, but codes_file holds only codes: choose one of "
            f"{list(features)}."
        )
    present = torch.stack([features[name].present for name in vectors]).any(dim=0)
    return Features(side_by_side(vectors), present)


def quantize(
    features: dict[str, Features], settings: MSCGRecSettings, train: Any
) -> dict[str, Tensor]:
    """Make the codes of every modality: a unique code for every item in the target modality.

    Returns:
        Named tensors: `codes.NAME` (N, L_m), `sizes.NAME` (L_m,), the codebooks learned here as
        `codebooks.NAME` (sum of K_l, D), and `filled` (2,), see `_complete_target`.

    Raises:
        UserError: see `ResidualQuantizer` and `redistribute`.
    """
    codes, stored = settings.codes, dict[str, Tensor]()
    for name, feature in features.items():
        quantizer = None
        if feature.codes is not None and feature.sizes is not None:
            sizes = feature.sizes
            table = feature.codes.clone()  # the target is completed in place
        else:
            rows, sizes = feature.present.nonzero().flatten(), torch.tensor(codes.level_sizes)
            iterations = codes.quantizer_iterations
            quantizer = ResidualQuantizer(sizes.tolist(), iterations, settings.run.seed)
            table = torch.full((train.item_num, len(sizes)), MISSING)
            try:
                table[rows] = quantizer.fit(feature.vectors[rows].to(settings.run.device)).cpu()
            except UserError as error:
                raise UserError(f"{name} codes: {error}") from error
            quantizer.to("cpu")
            stored[f"codebooks.{name}"] = torch.cat(quantizer.codebooks)
        stored[f"codes.{name}"], stored[f"sizes.{name}"] = table, sizes
        if name == codes.target_modality:
            stored["filled"] = _complete_target(table, sizes, quantizer, features, name)
            unique = _unique(table, quantizer, feature, codes, train)
            stored[f"codes.{name}"] = unique
    return stored


def _unique(
    table: Tensor,
    quantizer: ResidualQuantizer | None,
    feature: Features,
    settings: CodeSettings,
    train: Any,
) -> Tensor:
    """Unique target codes (N, L or L + 1) from those in `table` (N, L)."""
    codes = table[1:]
    if settings.collision == REDISTRIBUTE:
        if quantizer is None:
            raise UserError(
                "collision=redistribute needs codebooks, but the codes of "
                f"{settings.target_modality} come from a file or from RQ-DINO: use "
                "collision=extra_level."
            )
        vectors = feature.vectors[1:].clone()
        lacking = ~feature.present[1:]
        vectors[lacking] = quantizer.decode(codes[lacking])
        unique = redistribute(codes, vectors, quantizer.codebooks)
    else:  # among items that share a code, the most frequent one in training gets number 0
        rank = -torch.from_numpy(train.target_counts()[1:])
        unique = add_collision_level(codes, rank)
    return torch.cat([torch.full((1, unique.size(1)), MISSING), unique])


def _complete_target(
    table: Tensor,
    sizes: Tensor,
    quantizer: ResidualQuantizer | None,
    features: dict[str, Features],
    target: str,
) -> Tensor:
    """Give every item a target code, in place: that of its neighbours in another modality or, if it
    has none, a free leaf. Returns the number of items for both cases, (2,).

    The code is that of the mean vector of the neighbours or, if the codes were not made by our
    quantizer, that of the nearest item.
    """
    own, has_code = features[target], table[:, 0] != MISSING
    left = lacking = (~has_code[1:]).nonzero().flatten() + 1
    for name, other in features.items():
        known = (has_code & other.present).nonzero().flatten()
        mine = left[other.present[left]]
        if name == target or len(mine) == 0 or len(known) == 0:
            continue
        k = min(NEIGHBOURS if quantizer else 1, len(known))
        nearest = known[nearest_vectors(other.vectors[mine], other.vectors[known], k)]  # (n, k)
        if quantizer:
            table[mine] = quantizer.encode(own.vectors[nearest].mean(dim=1))
        else:
            table[mine] = table[nearest[:, 0]]
        left = left[~other.present[left]]
    if len(left):
        taken = table[1:][table[1:, 0] != MISSING]
        leaves = code_table.free_leaves(taken, sizes.tolist(), len(left))
        if len(leaves) == 0:  # no leaf is free: share codes, which the collision level separates
            leaves = taken
        table[left] = leaves[torch.arange(len(left)) % len(leaves)]
    return torch.tensor([len(lacking) - len(left), len(left)])


def assemble(
    stored: dict[str, Tensor], settings: CodeSettings
) -> tuple[CodeTable, dict[str, Any], dict[str, Tensor]]:
    """The code table from the result of `quantize`, its health report, and the codebooks by
    modality. Raises UserError if the codes are not valid."""
    names = [n for n in (*settings.modalities, FUSED) if f"codes.{n}" in stored]
    tables = {n: stored[f"codes.{n}"].long() for n in names}
    sizes = {n: stored[f"sizes.{n}"].tolist() for n in names}
    n_content_levels = {n: len(sizes[n]) for n in names}
    target = settings.target_modality
    if tables[target].size(1) > len(sizes[target]):
        sizes[target] = [*sizes[target], int(tables[target][:, -1].max()) + 1]
    table = CodeTable(tables, sizes, target)
    report = code_table.health(table, n_content_levels)
    filled = stored["filled"].tolist()
    report[target]["filled_from_neighbours"], report[target]["filled_free_leaf"] = filled
    codebooks = {n: stored[f"codebooks.{n}"] for n in names if f"codebooks.{n}" in stored}
    return table, report, codebooks
