"""The true size of nested content, in which one list may stand at many places."""

from __future__ import annotations

from typing import Any


def n_values(content: Any, known: dict[int, int] | None = None) -> int:
    """The number of values in lists and dicts, with those of a shared one counted at each place. It
    takes the time of counting each once.

    Raises:
        RecursionError: a list holds itself, or they are nested too deeply.
    """
    if not isinstance(content, (list, tuple, dict)):
        return 1
    known = {} if known is None else known
    if id(content) not in known:
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(n_values(part, known) for part in parts)
    return known[id(content)]
