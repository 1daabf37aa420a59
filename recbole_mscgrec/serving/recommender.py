"""Recommendations from item tokens. Needs only torch and safetensors, neither RecBole nor the data
set.

    recommender = Recommender.load("export")
    recommender.recommend([["50", "172", "181"]], top=10)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.serving.item_tokens import ItemTokens
from recbole_mscgrec.serving.requests import (
    Pairs,
    Request,
    SubCatalogue,
    allowed_mask,
    batches,
    index,
    item_filter,
    mixed,
    n_left,
    padded,
)
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.matching import unlike
from recbole_mscgrec.transitions.model import TransitionModel

Tensor = torch.Tensor
POPULAR = "popular"
PRECISIONS = FLOAT32, BFLOAT16 = "float32", "bfloat16"


class Recommendation(NamedTuple):
    """A recommended item."""

    item: str  # token
    score: float  # log-probability; for the fallback, log of the item's share of interactions
    code: tuple[int, ...]  # its semantic ID


class SharedLevels(NamedTuple):
    """A history item whose semantic ID has the same first levels as that of a recommended item."""

    item: str  # token of the history item
    n_levels: int  # number of leading levels with the same codeword
    code: tuple[int, ...]  # its semantic ID


class Recommender:
    """A trained MSCGRec model that answers with item tokens.

    Args:
        export: the content of an export folder.
        device: the device on which the model runs.
        precision: 'float32', or 'bfloat16' for matrix products and hidden states, which is faster
            on processors and GPUs with instructions for it. Hidden states then have about three
            digits, so the order of items with close scores may change.

    Raises:
        UserError: the weights do not fit the settings and codes of the export, or there is no
            such device or precision.
    """

    def __init__(
        self, export: Export, device: torch.device | str = "cpu", precision: str = FLOAT32
    ) -> None:
        self.export, self.device = export, _usable(device)
        if precision not in PRECISIONS:
            raise UserError(f"precision ({precision}) must be {' or '.join(PRECISIONS)}.")
        self._half, self.tokens = precision == BFLOAT16, ItemTokens(export.items)
        parts = export.table, export.network, export.vectors, export.learned
        network = CodeNetwork(*parts, initial=False)
        if text := unlike(export.weights, network.state_dict(), "model"):
            raise UserError(f"The export is damaged: {text}.")
        network.load_state_dict(export.weights)
        self.network = network.to(self.device).eval()
        counted = export.transitions
        self.transitions = counted and TransitionModel(counted).to(self.device)
        self._usable = ~export.removed & (torch.arange(len(export.removed)) > 0)

    @classmethod
    def load(
        cls, folder: str | Path, device: torch.device | str = "cpu", precision: str = FLOAT32
    ) -> Recommender:
        """Load a model from an export folder, which `recbole-mscgrec export` writes. For the other
        arguments see the class.

        Raises:
            UserError: the folder holds no export, or a damaged one.
        """
        return cls(export_folder.read(folder), device, precision)

    @property
    def items(self) -> list[str]:
        """Tokens of all items, including removed ones."""
        return self.export.items

    @property
    def titles(self) -> list[str] | None:
        """Titles of `items`; None if the data set has none."""
        return self.export.titles

    @property
    def generation(self) -> int:
        """Number of the version of the export folder."""
        return self.export.generation

    @property
    def beam_size(self) -> int:
        """Beam size of the evaluation after training; `recommend` raises it for longer lists."""
        return self.export.beam_size

    @torch.inference_mode()
    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        top: int = 10,
        *,
        exclude: Sequence[str] | Sequence[Sequence[str]] | None = None,
        allowed: Sequence[str] | Sequence[Sequence[str]] | SubCatalogue | None = None,
        exclude_seen: bool = False,
        beam_size: int | None = None,
        fallback: str | None = None,
        cold_share: float | None = None,
    ) -> list[list[Recommendation]]:
        """The best items for each history, in descending order; fewer than `top`, or none, if fewer
        are allowed.

        Args:
            histories: item tokens of each user, oldest first. The model reads the last
                `max_history` of them.
            exclude: tokens that must not be recommended: a list for all histories, or one list for
                each.
            allowed: tokens to choose from, in the same two forms, or a sub-catalogue.
            exclude_seen: also exclude all items of the history.
            beam_size: default: the larger of that of the evaluation and `top`.
            fallback: 'popular' recommends the most frequent items for an empty history.
            cold_share: share of the positions reserved for items added after training, spread
                evenly; default: that of the export. 0: only the scores decide.

        Raises:
            UserError: a token is unknown (the error names similar ones), a history is empty and
                there is no `fallback`, or an argument is out of range.
        """
        share = self.export.cold_share if cold_share is None else cold_share
        self._check(top, beam_size, fallback, share)
        asked = self._requests(histories, exclude, allowed, exclude_seen)
        results: list[list[Recommendation]] = [[] for _ in asked]
        for place, request in enumerate(asked):
            if not request.history:
                if fallback != POPULAR:
                    raise UserError(
                        f"History {place} is empty: leave it out, or use fallback='popular' for "
                        "the most frequent items."
                    )
                results[place] = self._popular(request, top)
        for places in batches(asked, len(self._usable)):
            requests = [asked[place] for place in places]
            mask = allowed_mask(requests, self._usable)
            width = max(beam_size or self.beam_size, top)
            found = self._found(requests, mask, width)
            if share:
                cold = self._found(requests, mask & (self.export.added_in > 0), width)
                found = [mixed(w, c, top, share) for w, c in zip(found, cold, strict=True)]
            for place, pairs in zip(places, found, strict=True):
                results[place] = [self._recommendation(*pair) for pair in pairs[:top]]
        return results

    def sub_catalogue(self, tokens: Sequence[str]) -> SubCatalogue:
        """A reusable value for the argument `allowed`, so that many calls look up the tokens once.

        Raises:
            UserError: an unknown token.
        """
        ids = index(self.tokens.ids(tokens, "allowed"))
        return SubCatalogue(torch.zeros_like(self._usable).index_fill(0, ids, True), self.items)

    def explain(self, history: Sequence[str], item: str) -> list[SharedLevels]:
        """The history items whose semantic ID shares its first levels with that of an item. Those
        with more shared levels come first; among equals, the latest. Raises UserError for an
        unknown token."""
        code = self.code_of(item)
        self.tokens.ids(history, "history")
        shared: dict[str, SharedLevels] = {}
        for token in reversed(history):
            other = self.code_of(token)
            pairs = enumerate(zip(code, other, strict=True))
            n_levels = next((level for level, (a, b) in pairs if a != b), len(code))
            if n_levels and token not in shared:
                shared[token] = SharedLevels(token, n_levels, other)
        return sorted(shared.values(), key=lambda each: -each.n_levels)

    def code_of(self, item: str) -> tuple[int, ...]:
        """The semantic ID of an item. Raises UserError for an unknown token."""
        return self._code(self.tokens.ids([item], "item")[0])

    def title_of(self, item: str) -> str | None:
        """The title of an item; None if it has none. Raises UserError for an unknown token."""
        (place,) = self.tokens.ids([item], "item")
        return (self.titles[place - 1] or None) if self.titles else None

    # --- parts of recommend -----------------------------------------------------------------------

    def _check(self, top: int, beam_size: int | None, fallback: str | None, share: float) -> None:
        if not 1 <= top <= len(self.items):
            raise UserError(
                f"top ({top}) must be from 1 to the number of items ({len(self.items)})."
            )
        if beam_size is not None and beam_size < top:
            raise UserError(
                f"beam_size ({beam_size}) must be at least top ({top}): raise beam_size or lower "
                "top."
            )
        if fallback not in (None, POPULAR):
            raise UserError(f"fallback ({fallback}) must be 'popular' or omitted.")
        if not 0 <= share <= 1:
            raise UserError(f"cold_share ({share}) must be from 0 to 1.")

    def _requests(
        self,
        histories: Sequence[Sequence[str]],
        exclude: Sequence[str] | Sequence[Sequence[str]] | None,
        allowed: Sequence[str] | Sequence[Sequence[str]] | SubCatalogue | None,
        exclude_seen: bool,
    ) -> list[Request]:
        ids = [self.tokens.ids(history, "history") for history in histories]
        gone = self.tokens.lists([] if exclude is None else exclude, len(ids), "exclude")
        chosen: Sequence[list[int] | SubCatalogue | None] = [None] * len(ids)
        if isinstance(allowed, SubCatalogue):
            if allowed.items is not self.items:
                raise UserError(
                    "allowed is a sub-catalogue of another Recommender, whose item ids may differ: "
                    "make it again with the sub_catalogue of this one."
                )
            chosen = [allowed] * len(ids)
        elif allowed is not None:
            chosen = self.tokens.lists(allowed, len(ids), "allowed")
        return [
            Request(history, excluded + history if exclude_seen else excluded, items)
            for history, excluded, items in zip(ids, gone, chosen, strict=True)
        ]

    def _beams(self, requests: list[Request], mask: Tensor, width: int) -> list[Pairs]:
        """(item id, log-probability) pairs for each request, best first."""
        cut = [request.history[-self.export.max_history :] for request in requests]
        items = padded(cut).to(self.device)
        length = torch.tensor([len(history) for history in cut], device=self.device)
        tree, last, prior = self.network.tree, length.unsqueeze(1) - 1, None
        if model := self.transitions:
            prior = model.prior(tree, items, length, self.export.transition_weight)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            encoded, constrained = self.network.encode(items), self.export.constrained
            restriction = item_filter(tree, requests, mask)
            beams = self.network.beams(encoded, last, width, restriction, constrained, prior)
        rows = zip(beams.items.tolist(), beams.log_probs.tolist(), strict=True)
        return [[(i, p) for i, p in zip(*row, strict=True) if i] for row in rows]

    def _found(self, requests: list[Request], mask: Tensor, width: int) -> list[Pairs]:
        """As `_beams`, with an empty list for a request that has no item left under the mask."""
        found: list[Pairs] = [[] for _ in requests]
        places = [place for place, n in enumerate(n_left(requests, mask)) if n]
        if places:
            some = [requests[place] for place in places]
            answers = self._beams(some, mask if mask.dim() == 1 else mask[places], width)
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return found

    def _popular(self, request: Request, top: int) -> list[Recommendation]:
        mask = allowed_mask([request], self._usable).clone()
        mask[index(request.excluded)] = False
        count = self.export.popularity.double().masked_fill(~mask, -1)
        values, best = count.topk(min(top, int(mask.sum())))
        total = max(float(self.export.popularity.sum()), 1.0)
        pairs = zip(best.tolist(), values.tolist(), strict=True)
        return [self._recommendation(i, math.log(max(n, 0.5) / total)) for i, n in pairs]

    def _recommendation(self, item: int, score: float) -> Recommendation:
        return Recommendation(self.items[item - 1], score, self._code(item))

    def _code(self, item: int) -> tuple[int, ...]:
        table = self.export.table
        return tuple(table.codes[table.target][item].tolist())


def _usable(device: torch.device | str) -> torch.device:
    """The device of this name. Raises UserError if there is none."""
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch raises both for a missing GPU
        raise UserError(f"The device {device} cannot be used ({one_line(error)}).") from error
