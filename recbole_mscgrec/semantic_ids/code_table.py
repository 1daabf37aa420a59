"""The code table: the codes of all items in all modalities; unused codes; codebook statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
MISSING = -1
LARGEST_CODEBOOK = 1 << 24  # the collision level has one codeword per item that shares a code
FUSED = "fused"  # target modality with the codes of all modalities' concatenated vectors


@dataclass(frozen=True)
class CodeTable:
    """Codes of N items (row 0 is padding) in several modalities.

    Attributes:
        codes: modality -> long (N, L_m); MISSING (-1) in all levels for items without it.
        sizes: modality -> number of codewords of each level.
        target: the modality whose codes are the semantic IDs: unique, and present for every item.
    """

    codes: dict[str, Tensor]
    sizes: dict[str, list[int]]
    target: str

    def __post_init__(self) -> None:
        validate(self)

    def to_plain(self) -> dict[str, Any]:
        """The table as tensors, lists and strings, for a checkpoint. The codes have the smallest
        integer type that holds them."""
        codes = {name: table.to(_type_of(self.sizes[name])) for name, table in self.codes.items()}
        return {"codes": codes, "sizes": dict(self.sizes), "target": self.target}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> CodeTable:
        """The table from the result of `to_plain`, validated."""
        codes = {name: table.cpu().long() for name, table in plain["codes"].items()}
        return cls(codes, plain["sizes"], plain["target"])

    @property
    def modalities(self) -> list[str]:
        return list(self.codes)

    @property
    def history(self) -> dict[str, Tensor]:
        """The codes that history tokens are made of: all except the fused ones, which repeat the
        information of the others."""
        return {name: codes for name, codes in self.codes.items() if name != FUSED}

    @property
    def n_items(self) -> int:
        """N, including the padding row."""
        return len(self.codes[self.target])

    @property
    def target_codes(self) -> Tensor:
        """Codes (N-1, L) of the items 1..N-1 in the target modality."""
        return self.codes[self.target][1:]


def _type_of(sizes: list[int]) -> torch.dtype:
    """The smallest integer type for codes below these sizes and MISSING."""
    types = (torch.int8, torch.int16, torch.int32)
    return next(kind for kind in types if max(sizes) - 1 <= torch.iinfo(kind).max)


def validate(table: CodeTable) -> None:
    """Raise UserError if the table is not as `CodeTable` says; it names the first wrong item."""
    if table.target not in table.codes or table.codes.keys() != table.sizes.keys():
        raise UserError(
            f"The code table has codes of {list(table.codes)}, sizes of {list(table.sizes)} and "
            f"the target {table.target}: codes and sizes must have the same modalities, and the "
            "target must be one of them."
        )
    for name, codes in table.codes.items():
        sizes = torch.tensor(table.sizes[name], dtype=torch.long)
        if codes.shape[1] != len(sizes) or len(codes) != table.n_items or len(sizes) == 0:
            raise UserError(
                f"{name} codes are {tuple(codes.shape)}, not ({table.n_items}, {len(sizes)})."
            )
        if bool((sizes < 1).any()) or bool((sizes > LARGEST_CODEBOOK).any()):
            raise UserError(
                f"{name} has codebooks of {sizes.tolist()} codewords, not of 1 to "
                f"{LARGEST_CODEBOOK:,}."
            )
        absent = (codes == MISSING).all(dim=1)
        wrong = (((codes < 0) | (codes >= sizes)).any(dim=1) & ~absent).nonzero().flatten()
        if len(wrong):
            item = int(wrong[0])
            raise UserError(
                f"{len(wrong)} items have a {name} code outside its codebooks {sizes.tolist()}; "
                f"the first is item {item} with {codes[item].tolist()}."
            )
    lacking = (table.target_codes == MISSING).any(dim=1).nonzero().flatten() + 1
    if len(lacking):
        raise UserError(
            f"{len(lacking)} items lack a code in the target modality {table.target}; "
            f"the first is item {int(lacking[0])}."
        )


def free_leaves(taken: Tensor, sizes: list[int], count: int) -> Tensor:
    """The first `count` codes (count, L), in lexicographic order, that are not in `taken` (n, L).

    Fewer are returned only if the codebooks have fewer free codes.
    """
    # Vary as few of the last levels as give enough codes; the levels before them stay 0.
    weights = [1]
    while len(weights) < len(sizes) and weights[0] * sizes[-len(weights)] < len(taken) + count:
        weights.insert(0, weights[0] * sizes[-len(weights)])
    n_fixed = len(sizes) - len(weights)
    used = taken[(taken[:, :n_fixed] == 0).all(1), n_fixed:] @ torch.tensor(weights)
    total = min(weights[0] * sizes[n_fixed], len(taken) + count)
    candidates = torch.arange(total)
    free = candidates[~torch.isin(candidates, used)][:count]
    digits = [free // w % s for w, s in zip(weights, sizes[n_fixed:], strict=True)]
    zeros = [torch.zeros_like(free)] * n_fixed
    return torch.stack([*zeros, *digits], dim=1)


def health(table: CodeTable, n_content_levels: dict[str, int]) -> dict[str, Any]:
    """Codebook usage per modality and level, as JSON values.

    Perplexity is exp(entropy) of the code frequencies of a level. Collisions are counted on the
    first `n_content_levels` levels, without the level that makes the target codes unique.
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
            "n_content_levels": n_content_levels[name],
            "n_items": len(codes),
            "n_missing": len(all_codes) - 1 - len(codes),
            "collision_rate": round(1 - alone / len(codes), 4),
            "alone_share": round(alone / len(codes), 4),
            "max_items_per_code": int(per_prefix.max()),
            "mean_items_per_code": round(float(per_prefix.double().mean()), 3),
        }
    return report
