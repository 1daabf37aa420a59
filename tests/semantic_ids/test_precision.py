"""The precision of matrix products."""

from __future__ import annotations

import pytest
import torch

from recbole_mscgrec.semantic_ids.precision import matmul_precision


def test_holds_inside_the_block_and_not_after_it() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="matmul_precision .'low'. must be 'highest', 'high'"):
        matmul_precision("low").__enter__()
