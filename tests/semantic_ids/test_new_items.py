"""Codes of added items: the nearest free leaf, against answers by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mscgrec.semantic_ids import new_items
from recbole_mscgrec.semantic_ids.new_items import codes_near, codes_of_vectors
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
TENS, ONES = torch.tensor([[0.0], [10], [20]]), torch.tensor([[-1.0], [0], [1]])
NONE = torch.zeros(0, 2, dtype=torch.long)


def line(*values: float) -> Tensor:
    """Vectors of width 1."""
    return torch.tensor(values).unsqueeze(1)


def all_codes(sizes: list[int]) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(s) for s in sizes)).view(-1, len(sizes))


def random_case(seed: int, n_known: int, n_new: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Vectors of new items, codebooks of 4 x 5 x 3, and published codes."""
    draw = torch.Generator().manual_seed(seed)
    books = [torch.randn(s, 6, generator=draw) / 2**n for n, s in enumerate((4, 5, 3))]
    published = all_codes([4, 5, 3])[torch.randperm(60, generator=draw)[:n_known]]
    return torch.randn(n_new, 6, generator=draw), books, published


def test_an_item_gets_its_own_code_or_else_the_nearest_one_that_is_free() -> None:
    taken = torch.tensor([[1, 1]])  # 10
    codes = codes_of_vectors(line(9.9, 10.2, 19.6), [TENS, ONES], [3, 3], taken)
    # Own codes: (1, 1) twice, (2, 1). 9.9 and 10.2 go to the nearest leaves, 9 and 11.
    assert codes.tolist() == [[1, 0], [1, 2], [2, 1]]


def test_the_earlier_row_gets_the_leaf_that_two_items_want() -> None:
    assert codes_of_vectors(line(10.1, 10.3), [TENS, ONES], [3, 3], NONE).tolist() == [
        [1, 1],
        [1, 2],
    ]
    assert codes_of_vectors(line(10.3, 10.1), [TENS, ONES], [3, 3], NONE).tolist() == [
        [1, 1],
        [1, 2],
    ]


def test_items_get_the_lowest_free_numbers_of_the_collision_level() -> None:
    taken = torch.tensor([[1, 1, 0], [1, 1, 2], [0, 0, 0]])
    codes = codes_of_vectors(line(10, 10, 9.9, 0), [TENS, ONES], [3, 3, 4], taken)
    # The place of 10 has room for two; the third item goes to 9.
    assert codes.tolist() == [[1, 1, 1], [1, 1, 3], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_a_single_item_gets_the_nearest_free_leaf_of_all(seed: int) -> None:
    vectors, books, published = random_case(seed, n_known=50, n_new=1)
    (code,) = codes_of_vectors(vectors, books, [4, 5, 3], published)
    quantizer = ResidualQuantizer([4, 5, 3])
    quantizer.codebooks = books
    own, everything = quantizer.encode(vectors)[0].tolist(), all_codes([4, 5, 3])
    taken = published.tolist()
    free = torch.tensor([c for c in everything.tolist() if c not in taken])
    distance = (quantizer.decode(free) - vectors).square().sum(1)
    assert code.tolist() == (own if own not in taken else free[distance.argmin()].tolist())


def test_new_items_far_from_the_origin_get_the_codes_that_they_get_near_it() -> None:
    vectors, books, published = random_case(1, n_known=30, n_new=20)
    found = codes_of_vectors(vectors, books, [4, 5, 3], published)
    far = codes_of_vectors(vectors + 8192, [books[0] + 8192, *books[1:]], [4, 5, 3], published)
    assert (found == far).all(1).float().mean() > 0.8  # float32 rounds the moved vectors


@pytest.mark.parametrize("widths", [(64, 256), (2, 4), (1,)])
def test_a_tree_can_be_filled_to_the_last_leaf(
    widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the search finds few places, so that most items get a leaf by their prefix."""
    monkeypatch.setattr(new_items, "_WIDTHS", widths)
    vectors, books, published = random_case(1, n_known=23, n_new=37)
    codes = codes_of_vectors(vectors, books, [4, 5, 3], published)
    assert sorted([*codes.tolist(), *published.tolist()]) == all_codes([4, 5, 3]).tolist()
    with pytest.raises(UserError, match="38 new items need .* but only 37 of 60 are free"):
        codes_of_vectors(torch.cat([vectors, vectors[:1]]), books, [4, 5, 3], published)


def test_the_result_does_not_depend_on_blocks_or_on_the_order_of_published_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, books, published = random_case(2, n_known=20, n_new=30)
    codes = codes_of_vectors(vectors, books, [4, 5, 3], published)
    monkeypatch.setattr(new_items, "_SCORES_AT_ONCE", 1)
    assert torch.equal(codes_of_vectors(vectors, books, [4, 5, 3], published.flip(0)), codes)


def test_without_codebooks_an_item_gets_the_longest_free_prefix() -> None:
    taken = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]])
    wanted = torch.tensor([[1, 1], [1, 1], [0, 0], [2, 2]])
    codes = codes_near(wanted, [3, 3, 2], taken)
    # (1, 1) is full: the first two share (1, ...); so is (0, 0): the third shares (0, ...).
    assert codes.tolist() == [[1, 0, 1], [1, 2, 0], [0, 1, 0], [2, 2, 0]]
    full = all_codes([3, 3, 2])[:12]  # everything below 0 and 1
    assert codes_near(wanted[:1], [3, 3, 2], full).tolist() == [[2, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_codes_near_others_are_free_and_distinct(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    sizes = [7, 1, 6, 3]
    published = all_codes(sizes)[torch.randperm(126, generator=draw)[:70]]
    codes = codes_near(torch.randint(6, (56, 1), generator=draw), sizes, published)
    assert sorted([*codes.tolist(), *published.tolist()]) == all_codes(sizes).tolist()


def test_no_item_needs_no_code() -> None:
    assert codes_of_vectors(torch.zeros(0, 1), [TENS, ONES], [3, 3], NONE).shape == (0, 2)
    assert codes_near(NONE, [3, 3], NONE).shape == (0, 2)


def test_codes_that_cannot_be_numbered_are_refused() -> None:
    sizes = [1 << 16] * 4
    assert math.prod(sizes) > 1 << 62
    with pytest.raises(UserError, match="at most 4.6e\\+18 can be numbered"):
        codes_near(torch.zeros(1, 4, dtype=torch.long), sizes, torch.zeros(0, 4, dtype=torch.long))
    with pytest.raises(UserError, match="do not fit their codebooks"):
        codes_near(torch.zeros(1, 2, dtype=torch.long), [3, 3], torch.tensor([[0, 3]]))
