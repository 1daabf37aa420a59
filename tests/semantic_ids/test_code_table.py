"""Code tables on hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mscgrec.semantic_ids.code_table import (
    MISSING,
    CodeTable,
    free_leaves,
    health,
)

ABSENT = [MISSING, MISSING]


def table() -> CodeTable:
    """Four items; item 3 lacks text; items 1 and 2 share their text code."""
    a = torch.tensor([ABSENT, [0, 0], [0, 1], [1, 0], [1, 1]])
    text = torch.tensor([ABSENT, [2, 0], [2, 0], ABSENT, [0, 1]])
    return CodeTable({"a": a, "text": text}, {"a": [2, 2], "text": [4, 2]}, "a")


def test_free_leaves_are_the_first_codes_that_nobody_holds() -> None:
    taken = torch.tensor([[0, 0], [0, 2], [1, 1]])
    assert free_leaves(taken, [2, 3], 2).tolist() == [[0, 1], [1, 0]]


def test_free_leaves_run_out() -> None:
    taken = torch.tensor([[0, 0], [0, 2], [1, 1]])
    assert free_leaves(taken, [2, 3], 10).tolist() == [[0, 1], [1, 0], [1, 2]]
    full = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert free_leaves(full, [2, 2], 1).tolist() == []


def test_free_leaves_of_a_huge_code_space() -> None:
    assert free_leaves(torch.tensor([[0, 0, 0]]), [256, 256, 256], 2).tolist() == [
        [0, 0, 1],
        [0, 0, 2],
    ]


def test_free_leaves_of_more_codes_than_64_bits_number() -> None:
    taken = torch.tensor([[0] * 31 + [1], [0] * 30 + [1, 0], [255] * 32])
    free = free_leaves(taken, [256] * 32, 2)
    assert free.tolist() == [[0] * 32, [0] * 31 + [2]]


def test_free_leaves_when_codes_lie_far_apart() -> None:
    taken = torch.tensor([[255, 255], [0, 1]])
    assert free_leaves(taken, [256, 256], 3).tolist() == [[0, 0], [0, 2], [0, 3]]


def test_health_by_hand() -> None:
    report = health(table(), {"a": 1, "text": 2})
    assert report["a"]["alone_share"] == 0 and report["a"]["collision_rate"] == 1
    assert report["a"]["max_items_per_code"] == 2 and report["a"]["mean_items_per_code"] == 2
    text = report["text"]
    assert (text["n_items"], text["n_missing"]) == (3, 1)
    assert text["alone_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert text["collision_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert text["max_items_per_code"] == 2 and text["mean_items_per_code"] == 1.5
    first = text["levels"][0]
    assert (first["codebook_size"], first["used"]) == (4, 2)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert first["perplexity"] == pytest.approx(math.exp(entropy), abs=0.01)


def test_plain_form_and_back() -> None:
    original = table()
    again = CodeTable.from_plain(original.to_plain())
    assert again.target == "a" and again.sizes == original.sizes
    assert all(torch.equal(again.codes[name], codes) for name, codes in original.codes.items())
    assert again.n_items == 5 and again.target_codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_table_that_breaks_its_promises_is_refused() -> None:
    plain = table().to_plain()

    def changed(name: str, codes: list[list[int]]) -> dict:
        return {**plain, "codes": {**plain["codes"], name: torch.tensor(codes)}}

    good = plain["codes"]["text"].tolist()
    with pytest.raises(ValueError, match=r"1 items have a text code.*item 1 with \[4, 0\]"):
        CodeTable.from_plain(changed("text", [ABSENT, [4, 0], *good[2:]]))
    with pytest.raises(ValueError, match=r"item 2 with \[-1, 0\]"):  # half a code
        CodeTable.from_plain(changed("text", [*good[:2], [-1, 0], *good[3:]]))
    with pytest.raises(ValueError, match=r"text codes are \(4, 2\), not \(5, 2\)"):
        CodeTable.from_plain(changed("text", good[:4]))
    lacking = plain["codes"]["a"].tolist()[:4] + [ABSENT]
    with pytest.raises(ValueError, match="1 items lack a code in the target modality a.*item 4"):
        CodeTable.from_plain(changed("a", lacking))


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (128, torch.int8),
        (129, torch.int16),
        (1 << 15, torch.int16),
        ((1 << 15) + 1, torch.int32),
        (1 << 24, torch.int32),
    ],
)
def test_a_checkpoint_holds_codes_in_the_smallest_type(size: int, kind: torch.dtype) -> None:
    codes = torch.tensor([ABSENT, [0, size - 1], [1, 0]])
    other = torch.tensor([ABSENT, ABSENT, [3, 4]])
    sizes = {"a": [2, size], "text": [5, 5]}
    plain = CodeTable({"a": codes, "text": other}, sizes, "a").to_plain()
    assert plain["codes"]["a"].dtype == kind and plain["codes"]["text"].dtype == torch.int8
    again = CodeTable.from_plain(plain)
    assert torch.equal(again.codes["a"], codes) and torch.equal(again.codes["text"], other)


def test_codes_of_older_checkpoints_are_int64() -> None:
    plain = {**table().to_plain(), "codes": table().codes}
    assert plain["codes"]["a"].dtype == torch.int64
    again = CodeTable.from_plain(plain)
    assert again.to_plain().keys() == plain.keys()
    assert all(torch.equal(again.codes[name], table().codes[name]) for name in again.codes)
