"""CodeTable: every item's codes in every modality, frozen; free leaves; health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
MISSING = -1
FUSED = "fused"  # the target whose codes are those of all modalities' vectors side by side


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
    def history(self) -> dict[str, Tensor]:
        """The codes of what an item has itself: fused ones repeat them and are only generated."""
        return {name: codes for name, codes in self.codes.items() if name != FUSED}

    @property
    def n_items(self) -> int:
        """N, padding row included."""
        return len(self.codes[self.target])

    @property
    def target_codes(self) -> Tensor:
        """(N-1, L) codes of the items 1..N-1 in the target modality."""
        return self.codes[self.target][1:]


def validate(table: CodeTable) -> None:
    """Raise UserError where the table breaks its promises; the first offender is named."""
    for name, codes in table.codes.items():
        sizes = torch.tensor(table.sizes[name])
        if codes.shape[1] != len(sizes) or len(codes) != table.n_items:
            raise UserError(
                f"{name} codes are {tuple(codes.shape)}, not ({table.n_items}, {len(sizes)})."
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
    """`count` codes (count, L) in lexicographic order that no row of `taken` (n, L) holds.

    Fewer are returned only when the codebooks have fewer free codes than asked for.
    """
    weights = [1]  # of the last levels, which give enough codes; those before them stay 0
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
            "n_content_levels": n_content_levels[name],
            "n_items": len(codes),
            "n_missing": len(all_codes) - 1 - len(codes),
            "collision_rate": round(1 - alone / len(codes), 4),
            "alone_share": round(alone / len(codes), 4),
            "max_items_per_code": int(per_prefix.max()),
            "mean_items_per_code": round(float(per_prefix.double().mean()), 3),
        }
    return report
