"""The size of nested content, also of content that holds one list at many places."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_mscgrec.storage.nesting import n_values


def test_every_place_counts() -> None:
    assert n_values(3) == 1
    assert n_values([1, {"a": 2, "b": (3, 4)}]) == 7
    doubled: Any = "x"
    for _ in range(60):
        doubled = [doubled, doubled]
    assert n_values(doubled) == 2**61 - 1


def test_a_list_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        n_values(loop)
