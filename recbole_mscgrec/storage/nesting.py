"""The true size of nested content, in which the same list may occur in many places."""

from __future__ import annotations

from typing import Any


def n_values(content: Any, known: dict[int, int] | None = None) -> int:
    """The number of values in nested lists and dicts. The content of a shared list or dict counts
    wherever it occurs, but is visited only once.

    Raises:
        RecursionError: a list contains itself, or the nesting is too deep.
    """
    if not isinstance(content, (list, tuple, dict)):
        return 1
    known = {} if known is None else known
    if id(content) not in known:
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(n_values(part, known) for part in parts)
    return known[id(content)]
