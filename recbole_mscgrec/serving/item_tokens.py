"""Tokens of items and users, and their ids."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

from recbole_mscgrec.storage.errors import UserError

_REACH = 50  # tokens on each side, in sorted order, that are searched for similar ones


class ItemTokens:
    """Maps tokens to ids 1, 2, ... in their order. `kind`, item or user, is for errors.

    Raises:
        UserError: a token occurs twice.
    """

    def __init__(self, tokens: list[str], kind: str = "item") -> None:
        self.tokens, self.kind = tokens, kind
        self.id_of = dict(zip(tokens, range(1, len(tokens) + 1), strict=True))
        if len(self.id_of) < len(tokens):
            twice = next(t for n, t in enumerate(tokens, 1) if self.id_of[t] != n)
            raise UserError(f"The {kind} token {twice!r} occurs twice: run the export again.")

    def ids(self, tokens: Sequence[str], name: str) -> list[int]:
        """The ids of tokens. `name` is the argument that holds them, for the error.

        Raises:
            UserError: a token is unknown; the error names similar ones.
        """
        if isinstance(tokens, str):
            raise UserError(f"{name} must be a list of item tokens, not the text {tokens!r:.60}.")
        try:
            return list(map(self.id_of.__getitem__, tokens))
        except (KeyError, TypeError) as error:
            unknown = [token for token in tokens if not self._knows(token)]
            raise UserError(self._text(unknown, name)) from error

    def lists(
        self, given: Sequence[str] | Sequence[Sequence[str]], n: int, name: str
    ) -> list[list[int]]:
        """The ids of `given`, as one list per history. `given` holds one list of tokens per
        history, or a single list for all n histories; the n results are then the same object.

        Raises:
            UserError: a token is unknown, or there is not one list per history.
        """
        if not isinstance(given, (str, list, tuple)):  # a set or an array
            given = list(given)
        # Only the first element decides the form: a sub-catalogue may have a million tokens.
        first = given[0] if given else ""
        if isinstance(given, str) or isinstance(first, str) or not isinstance(first, Iterable):
            return [self.ids(given, name)] * n  # type: ignore[arg-type]
        if len(given) != n:
            raise UserError(
                f"{name} holds {len(given)} lists for {n} histories: give one for each."
            )
        return [self.ids(tokens, name) for tokens in given]

    def similar(self, token: str) -> list[str]:
        """Up to three known tokens like this one, among those near it in sorted order."""
        place = bisect_left(self._sorted, token)
        near = self._sorted[max(0, place - _REACH) : place + _REACH]
        return difflib.get_close_matches(token, near, n=3, cutoff=0.3)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.tokens)

    def _knows(self, token: object) -> bool:
        return isinstance(token, str) and token in self.id_of

    def _text(self, unknown: Sequence[object], name: str) -> str:
        first = unknown[0]
        if not isinstance(first, str):
            return f"{name} must hold item tokens, which are text, not {first!r:.60}."
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        similar = self.similar(first)
        hint = f": similar ones are {', '.join(similar)}" if similar else ""
        return f"{name} names the unknown {self.kind} {first!r:.60}{others}{hint}."
