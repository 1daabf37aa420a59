"""Tokens to ids and back, with a hint for unknown ones."""

from __future__ import annotations

import time

import pytest

from recbole_mscgrec.serving.item_tokens import ItemTokens


def test_ids_begin_at_one() -> None:
    assert ItemTokens(["x", "y"]).ids(["y", "x", "y"], "history") == [2, 1, 2]


def test_a_list_for_all_is_one_object_and_lists_are_one_for_each() -> None:
    tokens = ItemTokens(["x", "y"])
    shared = tokens.lists(["y"], 3, "exclude")
    assert shared == [[2]] * 3 and shared[0] is shared[2]
    assert tokens.lists([["y"], [], ["x"]], 3, "exclude") == [[2], [], [1]]
    assert tokens.lists([], 2, "exclude") == [[], []]
    with pytest.raises(ValueError, match="exclude holds 1 lists for 2 histories"):
        tokens.lists([["x"]], 2, "exclude")
    with pytest.raises(ValueError, match="not the text 'x'"):
        tokens.lists("x", 1, "exclude")


def test_a_token_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' occurs twice"):
        ItemTokens(["x", "y", "x"])


def test_similar_tokens_are_found_quickly_in_a_large_catalogue() -> None:
    tokens = ItemTokens([f"B{n:09d}" for n in range(300_000)])
    assert tokens.similar("B00012345X")[0].startswith("B0001234")
    start = time.process_time()  # other programs may run at the same time
    tokens.similar("B000200000x")
    assert time.process_time() - start < 0.2
    assert tokens.similar("zzz") == []
