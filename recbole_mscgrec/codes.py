"""CodeTable: every item's codes in every modality, frozen; unique target codes; health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
MISSING = -1


@dataclass(frozen=True)
class CodeTable:
    """Codes of N items (row 0 is padding) in several modalities.

    Attributes:
        codes: modality -> long (N, L_m); MISSING (-1) in all levels of an item that lacks it.
        sizes: modality -> number of codewords of each level.
        target: the modality whose full code is unique per item and present for all of them.
    """

    codes: dict[str, Tensor]
    sizes: dict[str, list[int]]
    target: str

    def __post_init__(self) -> None:
        validate(self)

    def to_plain(self) -> dict[str, Any]:
        """Tensors, lists and strings only, for a checkpoint."""
        return {"codes": dict(self.codes), "sizes": dict(self.sizes), "target": self.target}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> CodeTable:
        """Undo `to_plain`; validates."""
        return cls({k: v.cpu() for k, v in plain["codes"].items()}, plain["sizes"], plain["target"])

    @property
    def modalities(self) -> list[str]:
        return list(self.codes)

    @property
    def n_items(self) -> int:
        """N, padding row included."""
        return len(self.codes[self.target])

    @property
    def target_codes(self) -> Tensor:
        """(N-1, L) codes of the items 1..N-1 in the target modality."""
        return self.codes[self.target][1:]


def validate(table: CodeTable) -> None:
    """Raise ValueError where the table breaks its promises; the first offender is named."""
    for name, codes in table.codes.items():
        sizes = torch.tensor(table.sizes[name])
        if codes.shape[1] != len(sizes) or len(codes) != table.n_items:
            raise ValueError(
                f"{name} codes are {tuple(codes.shape)}, not ({table.n_items}, {len(sizes)})."
            )
        absent = (codes == MISSING).all(dim=1)
        wrong = (((codes < 0) | (codes >= sizes)).any(dim=1) & ~absent).nonzero().flatten()
        if len(wrong):
            item = int(wrong[0])
            raise ValueError(
                f"{len(wrong)} items have a {name} code outside its codebooks {sizes.tolist()}; "
                f"the first is item {item} with {codes[item].tolist()}."
            )
    lacking = (table.target_codes == MISSING).any(dim=1).nonzero().flatten() + 1
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} items lack a code in the target modality {table.target}; "
            f"the first is item {int(lacking[0])}."
        )


def add_collision_level(codes: Tensor, order: Tensor) -> Tensor:
    """Append a level that numbers the items sharing a code, so that rows (N, L) become unique.

    `order` (N,) ranks items: the one with the lowest value of each group gets 0. Where no two items
    share a code the table is returned as it is.
    """
    _, group = torch.unique(codes, dim=0, return_inverse=True)
    if int(group.max()) + 1 == len(codes):
        return codes
    # Sort by group, then by order; an item's number is its distance from its group's first row.
    by_order = torch.argsort(order, stable=True)
    rows = by_order[torch.argsort(group[by_order], stable=True)]
    sorted_group = group[rows]
    index = torch.arange(len(rows))
    is_first = torch.ones(len(rows), dtype=torch.bool)
    is_first[1:] = sorted_group[1:] != sorted_group[:-1]
    first = torch.where(is_first, index, 0).cummax(0).values
    number = torch.empty_like(index)
    number[rows] = index - first
    return torch.cat([codes, number.unsqueeze(1)], dim=1)


def free_leaves(taken: Tensor, sizes: list[int], count: int) -> Tensor:
    """`count` codes (count, L) in lexicographic order that no row of `taken` (n, L) holds.

    Fewer are returned only when the codebooks have fewer free codes than asked for.
    """
    weights = [1]
    for size in reversed(sizes[1:]):
        weights.insert(0, weights[0] * size)
    used = (taken * torch.tensor(weights)).sum(1)
    total = min(weights[0] * sizes[0], len(taken) + count)
    candidates = torch.arange(total)
    free = candidates[~torch.isin(candidates, used)][:count]
    digits = [free // w % s for w, s in zip(weights, sizes, strict=True)]
    return torch.stack(digits, dim=1)


def health(table: CodeTable, n_content_levels: dict[str, int]) -> dict[str, Any]:
    """Codebook use per modality and level; JSON-ready.

    Perplexity is exp(entropy) of a level's code frequencies. Collisions are counted on the first
    `n_content_levels` levels, before the level that makes the target unique.
    """
    report = {}
    for name, all_codes in table.codes.items():
        codes = all_codes[1:]
        codes = codes[codes[:, 0] != MISSING]
        content = codes[:, : n_content_levels[name]]
        per_prefix = torch.unique(content, dim=0, return_counts=True)[1]
        alone = int((per_prefix == 1).sum())
        levels = []
        for level, size in enumerate(table.sizes[name]):
            count = torch.bincount(codes[:, level], minlength=size).double()
            share = count[count > 0] / count.sum()
            levels.append(
                {
                    "codebook_size": size,
                    "used": int((count > 0).sum()),
                    "perplexity": round(float((-(share * share.log()).sum()).exp()), 2),
                }
            )
        report[name] = {
            "levels": levels,
            "n_items": len(codes),
            "n_missing": len(all_codes) - 1 - len(codes),
            "collision_rate": round(1 - alone / len(codes), 4),
            "alone_share": round(alone / len(codes), 4),
            "max_items_per_code": int(per_prefix.max()),
            "mean_items_per_code": round(float(per_prefix.double().mean()), 3),
        }
    return report
