"""Distributions of the next item; values by hand are in tests/plugin/test_sequential_rules.py."""

from __future__ import annotations

import pytest
import torch
from exports import transitions

from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree
from recbole_mscgrec.transitions import model
from recbole_mscgrec.transitions.model import TransitionModel

N = 9


HISTORIES = torch.tensor([[3, 1, 4], [8, 0, 0], [2, 2, 0], [0, 0, 0]])
LENGTHS = torch.tensor([3, 1, 2, 0])


def test_every_row_is_a_distribution_over_the_items() -> None:
    found = TransitionModel(transitions(N))(HISTORIES, LENGTHS)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    assert not found[:, 0].any() and bool((found[:, 1:] > 0).all())
    torch.testing.assert_close(found[3], transitions(N).popularity)  # an empty history


def test_without_texts_only_rules_count() -> None:
    made = transitions(N)
    found = TransitionModel(made)(HISTORIES, LENGTHS, texts=False)
    torch.testing.assert_close(found[1], made.popularity)  # item 8 has no rules
    rules = torch.zeros(N).index_add(
        0, made.item[made.start[2] : made.start[3]].long(), made.weight[3:6]
    )
    torch.testing.assert_close(found[2], 0.99 * rules / rules.sum() + 0.01 * made.popularity)


def test_a_gpu_gets_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tokens are not packed, the rules are summed at static shapes."""
    made = TransitionModel(transitions(N))
    here = made(HISTORIES, LENGTHS)
    monkeypatch.setattr(model, "packs", lambda tensor: False)
    torch.testing.assert_close(made(HISTORIES, LENGTHS), here)


@pytest.mark.parametrize("packs", [True, False])
def test_without_any_rule_texts_and_popularity_are_left(
    monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    monkeypatch.setattr(model, "packs", lambda tensor: packs)
    found = TransitionModel(transitions(N, n_rules=0))(HISTORIES, LENGTHS)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    assert found[1].argmax() != transitions(N).popularity.argmax()


def test_a_prior_is_the_distribution_over_the_tree() -> None:
    codes = torch.tensor([[i // 4, i % 4] for i in range(N - 1)])
    tree = PrefixTree(codes, torch.arange(1, N))
    made = TransitionModel(transitions(N))
    leaves = torch.arange(N - 1).expand(4, -1)
    found = made.prior(tree, HISTORIES, LENGTHS, 0.5).log_mass(2, leaves).exp()
    torch.testing.assert_close(found, made(HISTORIES, LENGTHS)[:, 1:], rtol=1e-4, atol=1e-7)


def test_new_items_are_found_by_their_texts() -> None:
    made = transitions(N)
    text = torch.stack([made.text[4].float() * 3, torch.zeros(4)])
    grown = made.with_items(2, text)
    assert grown.fault(N + 2) == ""
    found = TransitionModel(grown)(torch.tensor([[1, 4]]), torch.tensor([2]))[0]
    assert found[N] > 5 * found[N + 1] > 0  # as similar to item 4 as can be; without a text
    other = TransitionModel(grown)(torch.tensor([[N]]), torch.tensor([1]))[0]
    assert other.argmax() == 4
    assert TransitionModel(made.with_items(1))(HISTORIES, LENGTHS)[:3, N].max() < 0.001


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"popularity": torch.ones(4)}, "not those of 8 items"),
        ({"start": torch.zeros(N + 1, dtype=torch.long)}, "wrong bounds"),
        ({"item": torch.full((21,), N, dtype=torch.int32)}, "names an item that does not exist"),
    ],
)
def test_damaged_transitions_are_told(change: dict[str, torch.Tensor], told: str) -> None:
    assert transitions(N).fault(N) == ""
    assert told in transitions(N)._replace(**change).fault(N)
