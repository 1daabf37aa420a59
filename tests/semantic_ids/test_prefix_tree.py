"""The tree on a hand-made catalogue, and on catalogues whose answer a Python dict gives."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

#            item 5  item 3  item 9  item 2  item 7
HAND_CODES = [[1, 0], [0, 2], [0, 0], [1, 3], [2, 1]]
HAND_ITEMS = [5, 3, 9, 2, 7]


@pytest.fixture
def hand_made() -> PrefixTree:
    """Root -> 0 (items 9, 3), 1 (items 5, 2), 2 (item 7)."""
    return PrefixTree(torch.tensor(HAND_CODES), torch.tensor(HAND_ITEMS))


def random_codes(n: int, sizes: list[int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (4 * n,), generator=generator) for size in sizes]
    distinct = torch.unique(torch.stack(columns, dim=1), dim=0)
    return distinct[torch.randperm(len(distinct), generator=generator)[:n]]


def test_leaves_stand_in_the_order_of_their_codes(hand_made: PrefixTree) -> None:
    assert hand_made.leaf_item.tolist() == [9, 3, 5, 2, 7]
    assert hand_made.n_items == 5
    assert hand_made.max_children == [3, 2]


def test_path_runs_from_the_root_to_the_leaf(hand_made: PrefixTree) -> None:
    root, inner, leaf = hand_made.path(torch.tensor([[9, 2], [7, 3]]))
    assert root.tolist() == [[0, 0], [0, 0]]
    assert inner.tolist() == [[0, 1], [2, 0]]
    assert leaf.tolist() == [[0, 3], [4, 1]]


def test_children_of_root_and_of_inner_nodes(hand_made: PrefixTree) -> None:
    nodes, codes, valid = hand_made.children(0, torch.tensor([0]))
    assert valid.tolist() == [[True, True, True]]
    assert codes.tolist() == [[0, 1, 2]] and nodes.tolist() == [[0, 1, 2]]
    nodes, codes, valid = hand_made.children(1, torch.tensor([1, 2]))
    assert valid.tolist() == [[True, True], [True, False]]
    assert codes[valid].tolist() == [0, 3, 1]
    assert nodes[valid].tolist() == [2, 3, 4]


def test_number_of_children_and_child_by_code(hand_made: PrefixTree) -> None:
    assert hand_made.n_children(1, torch.tensor([0, 1, 2])).tolist() == [2, 2, 1]
    found = hand_made.child(1, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 2, 0, 3, 1]))
    assert found.tolist() == [0, 1, 2, 3, 4]


def test_leaf_ranges_of_every_depth(hand_made: PrefixTree) -> None:
    start, end = hand_made.leaves(0, torch.tensor([0]))
    assert (start.tolist(), end.tolist()) == ([0], [5])
    start, end = hand_made.leaves(1, torch.tensor([0, 1, 2]))
    assert (start.tolist(), end.tolist()) == ([0, 2, 4], [2, 4, 5])
    start, end = hand_made.leaves(2, torch.tensor([3]))
    assert (start.tolist(), end.tolist()) == ([3], [4])


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(1, [4]), (40, [50]), (200, [8, 8, 8]), (300, [3, 300, 2, 5]), (100, [256] * 12)],
    ids=["one-item", "one-level", "square", "wide-middle", "beyond-62-bits"],
)
def test_agrees_with_sorted_python_tuples(n: int, sizes: list[int]) -> None:
    codes = random_codes(n, sizes)
    items = torch.randperm(3 * len(codes))[: len(codes)] + 1
    tree = PrefixTree(codes, items)
    by_code = sorted(zip(map(tuple, codes.tolist()), items.tolist(), strict=True))
    assert tree.leaf_item.tolist() == [item for _, item in by_code]
    path = tree.path(items)
    for level in range(len(sizes)):
        children: dict[tuple[int, ...], set[int]] = {}
        for code, _ in by_code:
            children.setdefault(code[:level], set()).add(code[level])
        nodes, found, valid = tree.children(level, path[level])
        for row, code in enumerate(map(tuple, codes.tolist())):
            assert found[row][valid[row]].tolist() == sorted(children[code[:level]])
        gold = tree.child(level, path[level], codes[:, level])
        assert torch.equal(gold, path[level + 1])


def test_more_than_62_bits_sort_by_the_first_level_first() -> None:
    codes = torch.zeros(4, 12, dtype=torch.long)
    codes[:, 0] = torch.tensor([255, 0, 255, 0])
    codes[:, 11] = torch.tensor([0, 255, 255, 0])
    tree = PrefixTree(codes, torch.tensor([1, 2, 3, 4]))
    assert tree.leaf_item.tolist() == [4, 2, 1, 3]


def test_node_numbers_beyond_a_byte_keep_their_codes() -> None:
    codes = torch.arange(300).unsqueeze(1)
    tree = PrefixTree(codes.flip(0))
    assert tree.children(0, torch.tensor([0])).codes.flatten().tolist() == list(range(300))


def test_dense_mask_equals_listed_children() -> None:
    tree = PrefixTree(random_codes(60, [8, 8, 8], seed=1))
    assert tree.dense[0] is not None
    for level, mask in enumerate(tree.dense):
        if mask is None:
            continue
        nodes = torch.arange(len(mask))
        _, codes, valid = tree.children(level, nodes)
        for node in nodes.tolist():
            assert mask[node].nonzero().flatten().tolist() == codes[node][valid[node]].tolist()


def test_resident_size_counts_every_array_once() -> None:
    tree = PrefixTree(torch.tensor(HAND_CODES), torch.tensor(HAND_ITEMS))
    held = [*tree.first, *tree.code, tree.leaf_item, tree.item_leaf]
    held += [mask for mask in tree.dense if mask is not None] + list(tree.leaf_start)
    distinct = {t.data_ptr(): t.numel() * t.element_size() for t in held}
    assert tree.n_bytes == sum(distinct.values())


def test_two_items_with_one_code_are_named() -> None:
    with pytest.raises(ValueError, match=r"1 items share.*items 4 and 6 with code \[1, 1\]"):
        PrefixTree(torch.tensor([[1, 1], [0, 1], [1, 1]]), torch.tensor([4, 5, 6]))


def test_empty_and_negative_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        PrefixTree(torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="negative, but one is -1"):
        PrefixTree(torch.tensor([[0, -1]]))
