"""Free beam search over tables of fixed logits, against enumeration of all sequences."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from test_beam_search import SIZES, TableModel, catalogue

from recbole_mscgrec.network.beam_search import Beams, beam_search
from recbole_mscgrec.network.free_search import free_beam_search
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree


def search(codes: torch.Tensor, width: int, penalty: float) -> tuple[TableModel, Beams]:
    model = TableModel(SIZES, n_rows=3)
    tree = PrefixTree(codes, torch.arange(1, len(codes) + 1))
    return model, free_beam_search(model.step, tree, 3, width, penalty)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 50.0])
@pytest.mark.parametrize("width", [5, 60])
def test_the_widest_free_beam_ranks_all_sequences(width: int, penalty: float) -> None:
    """As wide as there are sequences (60) the search is exhaustive; from there the first 5."""
    codes = catalogue(25)
    item_of = {tuple(c): i + 1 for i, c in enumerate(codes.tolist())}
    everything = list(product(*(range(s) for s in SIZES)))
    model, beams = search(codes, 60, penalty)
    for row in range(3):
        score = {
            c: model.log_prob(row, c, everything) - penalty * (c not in item_of) for c in everything
        }
        best = sorted(everything, key=lambda c: -score[c])[:60]
        items = [item_of[c] for c in best if c in item_of]
        n = len(items)
        assert beams.items[row, :n].tolist() == items and not beams.items[row, n:].any()
        expected = torch.tensor([score[c] for c in best if c in item_of])
        torch.testing.assert_close(beams.log_probs[row, :n], expected, rtol=1e-4, atol=1e-4)
        assert int(beams.n_invalid[row]) == 60 - n
    _, narrow = search(codes, width, penalty)
    assert narrow.items.shape == (3, width)
    assert torch.equal((narrow.items == 0).sum(1), narrow.n_invalid)


def test_a_large_penalty_keeps_beams_in_the_catalogue() -> None:
    _, free = search(catalogue(25), 5, 0.0)
    _, held = search(catalogue(25), 5, 50.0)
    assert int(free.n_invalid.sum()) > 0 and int(held.n_invalid.sum()) == 0


def test_over_a_full_catalogue_nothing_is_invalid() -> None:
    codes = catalogue(60)
    _, free = search(codes, 60, 0.0)
    model, tree = TableModel(SIZES, 3), PrefixTree(codes, torch.arange(1, 61))
    constrained = beam_search(model.step, tree, 3, 60)
    assert not free.n_invalid.any() and torch.equal(free.items, constrained.items)
    torch.testing.assert_close(free.log_probs, constrained.log_probs)
