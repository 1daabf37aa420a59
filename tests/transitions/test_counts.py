"""What is counted, and how much of it is kept; tests/plugin/test_sequential_rules.py has the values
by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from tiny import build, protocol, random_sequences, write_dataset

from recbole_mscgrec.transitions import counts
from recbole_mscgrec.transitions.counts import count_transitions, sequential_rules
from recbole_mscgrec.transitions.model import Transitions


def counted(folder: Path, text: torch.Tensor | None = None) -> Transitions:
    write_dataset(folder / "data", "walk", random_sequences(30, 12, 5, 14))
    built = build("TiledSASRec", "walk", protocol(folder, hidden_size=8))
    return count_transitions(built.train.dataset, text)


def test_without_texts_the_rules_of_an_item_are_a_distribution(tmp_path: Path) -> None:
    made = counted(tmp_path)
    assert made.fault(13) == ""
    sums = torch.zeros(13).index_add(
        0, torch.arange(13).repeat_interleave(made.start.diff()), made.weight
    )
    torch.testing.assert_close(sums[1:], torch.ones(12))
    assert sums[0] == 0 and made.popularity[0] == 0
    assert not made.text_share.any()


def test_texts_take_their_share_where_there_is_one(tmp_path: Path) -> None:
    text = torch.randn(13, 4)
    text[[0, 5]] = 0
    made = counted(tmp_path, text)
    alone = counted(tmp_path)
    torch.testing.assert_close(made.item, alone.item)
    share = made.text_share.repeat_interleave(made.start.diff())
    torch.testing.assert_close(made.weight, alone.weight * (1 - share))
    assert made.text_share[5] == 0 and bool((made.text_share[1:5] > 0.3).all())
    torch.testing.assert_close(made.text.float().norm(dim=1)[1:5], torch.ones(4), atol=2e-3, rtol=0)


def test_the_heaviest_rules_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", "walk", random_sequences(30, 12, 5, 14))
    train = build("TiledSASRec", "walk", protocol(tmp_path, hidden_size=8)).train.dataset
    number = train.target_counts()
    whole, n_pairs = sequential_rules(train, 9, number, 0.0)
    monkeypatch.setattr(counts, "MOST_RULES", 4)
    kept, same = sequential_rules(train, 9, number, 0.0)
    np.testing.assert_array_equal(n_pairs, same)
    for item in range(1, 13):
        row = whole[[item]].toarray()[0]
        heaviest = np.sort(row)[::-1][:4]
        found = kept[[item]].toarray()[0]
        np.testing.assert_allclose(np.sort(found)[::-1][:4], heaviest / heaviest.sum())
        assert np.count_nonzero(found) == 4
    assert isinstance(kept, sparse.csr_matrix) and kept.has_sorted_indices
