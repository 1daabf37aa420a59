"""Vectors that all ids have, or only some of them."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.network.learned_vectors import LearnedVectors, checked_items

Tensor = torch.Tensor


def test_all_ids_have_a_vector_as_in_an_embedding() -> None:
    torch.manual_seed(0)
    table = LearnedVectors(6, 3, padding_idx=0)
    torch.manual_seed(0)
    expected = torch.nn.Embedding(6, 3, padding_idx=0)
    ids = torch.tensor([[5, 0], [1, 5]])
    assert torch.equal(table(ids), expected(ids))
    assert table.state_dict().keys() == expected.state_dict().keys() == {"weight"}


def test_some_ids_have_a_vector_and_all_others_share_row_0_which_stays_zero() -> None:
    table = LearnedVectors(100, 3, torch.tensor([2, 50, 99]))
    ids = torch.tensor([0, 99, 2, 51, 50])
    assert table.weight.shape == (4, 3) and table.state_dict().keys() == {"weight"}
    assert table.rows(ids).tolist() == [0, 3, 1, 0, 2]
    assert torch.equal(table(ids), table.weight[[0, 3, 1, 0, 2]])
    assert not table(ids)[[0, 3]].any() and table(ids)[[1, 2, 4]].all()
    table(ids).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[0.0] * 3] + [[1.0] * 3] * 3
    assert table.row is not None and table.row.dtype == torch.int32


def test_items_of_a_file_are_checked() -> None:
    assert checked_items(None, 9, "m.pth") is None
    found = checked_items(torch.tensor([1, 4, 8]), 9, "m.pth")
    assert found is not None and found.dtype == torch.int32 and found.tolist() == [1, 4, 8]


@pytest.mark.parametrize("ids", [[], [0, 3], [3, 9], [4, 4], [5, 3], [-1]])
def test_items_that_cannot_be_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"m.pth is damaged: .* not ascending ids from 1 to 8\."):
        checked_items(torch.tensor(ids, dtype=torch.long), 9, "m.pth")
