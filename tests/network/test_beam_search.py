"""Beam search over tables of fixed logits, where exhaustive enumeration is easy."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from recbole_mscgrec.network.beam_search import Beams, beam_search
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

Tensor = torch.Tensor


class TableModel:
    """Logits that depend on row, level and the whole prefix; notes how many beams a call has."""

    def __init__(self, sizes: list[int], n_rows: int, seed: int = 0) -> None:
        self.sizes, self.asked = sizes, []
        generator = torch.Generator().manual_seed(seed)
        self.table = {
            prefix: 2 * torch.randn(n_rows, sizes[level], generator=generator)
            for level in range(len(sizes))
            for prefix in product(*(range(s) for s in sizes[:level]))
        }
        self.prefixes: list[tuple[int, ...]] = [()] * n_rows  # of the last step's beams

    def step(
        self, level: int, row: Tensor, nodes: Tensor, codes: Tensor | None, parents: Tensor | None
    ) -> Tensor:
        assert nodes.shape == row.shape
        self.asked.append(len(row))
        if codes is not None and parents is not None:
            pairs = zip(codes.tolist(), parents.tolist(), strict=True)
            self.prefixes = [self.prefixes[parent] + (code,) for code, parent in pairs]
        beams = zip(self.prefixes, row.tolist(), strict=True)
        return torch.stack([self.table[prefix][r] for prefix, r in beams])

    def log_prob(self, row: int, code: tuple[int, ...], catalogue: list[tuple[int, ...]]) -> float:
        """By hand: softmax over the children of each prefix."""
        total = 0.0
        for level in range(len(code)):
            children = {c[level] for c in catalogue if c[:level] == code[:level]}
            logits = self.table[code[:level]][row].double()
            total += float(logits[code[level]])
            total -= math.log(sum(math.exp(float(logits[c])) for c in children))
        return total


SIZES = [5, 4, 3]


def catalogue(n: int, seed: int = 0) -> Tensor:
    everything = torch.tensor(list(product(*(range(s) for s in SIZES))))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
    return everything[order[:n]]


def search(codes: Tensor, n_rows: int, width: int) -> tuple[TableModel, PrefixTree, Beams]:
    model = TableModel(SIZES, n_rows)
    tree = PrefixTree(codes, torch.arange(1, len(codes) + 1))
    return model, tree, beam_search(model.step, tree, n_rows, width)


@pytest.mark.parametrize("n", [1, 7, 25, 60])
def test_beam_as_wide_as_the_catalogue_is_exhaustive(n: int) -> None:
    codes = catalogue(n)
    model, _, beams = search(codes, n_rows=3, width=n)
    tuples = [tuple(c) for c in codes.tolist()]
    for row in range(3):
        exact = {i + 1: model.log_prob(row, c, tuples) for i, c in enumerate(tuples)}
        order = sorted(exact, key=lambda item: -exact[item])
        assert beams.items[row].tolist() == order
        expected = torch.tensor([exact[i] for i in order], dtype=torch.float)
        torch.testing.assert_close(beams.log_probs[row], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(beams.log_probs.exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "listed"])
def test_narrow_beam_by_a_plain_loop(dense: bool) -> None:
    codes = catalogue(40, seed=2)
    tuples = [tuple(c) for c in codes.tolist()]
    tree = PrefixTree(codes, torch.arange(1, 41))
    if not dense:
        tree.dense = [None] * tree.n_levels
    model = TableModel(SIZES, 2)
    beams = beam_search(model.step, tree, 2, 4)
    for row in range(2):
        kept = [((), 0.0)]
        for level in range(3):
            grown = {}
            for prefix, score in kept:
                children = {c[level] for c in tuples if c[:level] == prefix}
                logits = {c: float(model.table[prefix][row][c]) for c in children}
                norm = math.log(sum(math.exp(v) for v in logits.values()))
                grown |= {prefix + (c,): score + v - norm for c, v in logits.items()}
            kept = sorted(grown.items(), key=lambda pair: -pair[1])[:4]
        assert beams.items[row].tolist() == [tuples.index(code) + 1 for code, _ in kept]
        expected = torch.tensor([score for _, score in kept])
        torch.testing.assert_close(beams.log_probs[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_every_result_is_a_real_item_and_none_comes_twice(seed: int) -> None:
    codes = catalogue(30, seed)
    model = TableModel(SIZES, 4, seed)
    tree = PrefixTree(codes, torch.arange(100, 130))
    items = beam_search(model.step, tree, 4, 12).items
    assert ((items >= 100) & (items < 130)).all()
    assert all(len(set(row)) == 12 for row in items.tolist())


def test_one_step_per_level_whatever_the_width() -> None:
    assert len(search(catalogue(40), n_rows=2, width=30)[0].asked) == 3


def test_only_beams_with_a_choice_are_computed() -> None:
    """Node (0,) leads to one item, (1,) to two, and (1, 2) still to both."""
    codes = torch.tensor([[0, 3, 1], [1, 2, 0], [1, 2, 2]])
    model, _, beams = search(codes, n_rows=2, width=3)
    assert model.asked == [2, 2, 2]
    tuples = [tuple(c) for c in codes.tolist()]
    for row in range(2):
        exact = [model.log_prob(row, tuples[item - 1], tuples) for item in beams.items[row]]
        torch.testing.assert_close(beams.log_probs[row], torch.tensor(exact))


def test_fewer_items_than_beams_leave_places_without_item() -> None:
    _, _, beams = search(catalogue(3), n_rows=2, width=5)
    assert (beams.items[:, :3] > 0).all() and (beams.items[:, 3:] == 0).all()
    assert (beams.log_probs[:, 3:] == -torch.inf).all()


def test_log_probs_fall_along_the_list() -> None:
    _, _, beams = search(catalogue(50), n_rows=4, width=10)
    assert (beams.log_probs[:, 1:] <= beams.log_probs[:, :-1]).all()


def test_levels_without_a_choice_are_not_computed() -> None:
    codes = torch.tensor([[0, 3, 1], [1, 2, 2], [2, 0, 0], [5, 5, 5]])
    tree = PrefixTree(codes, torch.arange(1, 5))
    asked: list[int] = []

    def step(level: int, row: Tensor, *_: Tensor | None) -> Tensor:
        asked.append(level)
        return torch.arange(6.0).repeat(len(row), 1)

    beams = beam_search(step, tree, 2, 3)
    assert asked == [0]
    assert beams.items.tolist() == [[4, 3, 2]] * 2
    expected = torch.tensor([0.0, 1.0, 2.0, 5.0]).log_softmax(0)
    torch.testing.assert_close(beams.log_probs[0], expected[[3, 2, 1]])


@pytest.mark.parametrize("n", [1, 7, 25, 60])
def test_softmax_over_all_codewords_keeps_the_scores_of_a_model_without_constraint(n: int) -> None:
    codes = catalogue(n)
    model = TableModel(SIZES, 3)
    tree = PrefixTree(codes, torch.arange(1, n + 1))
    beams = beam_search(model.step, tree, 3, n, over_children=False)
    everything = list(product(*(range(s) for s in SIZES)))
    for row in range(3):
        exact = {
            i + 1: model.log_prob(row, tuple(c), everything) for i, c in enumerate(codes.tolist())
        }
        assert beams.items[row].tolist() == sorted(exact, key=lambda i: -exact[i])
        expected = torch.tensor(sorted(exact.values(), reverse=True))
        torch.testing.assert_close(beams.log_probs[row], expected, rtol=1e-4, atol=1e-4)
