"""Rules of what a file must hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_mscgrec.storage import schema
from recbole_mscgrec.storage.errors import UserError

LONG, FLOAT = torch.tensor([1, 2]), torch.tensor([0.5])


@pytest.mark.parametrize(
    "value, rule",
    [
        (3, int),
        (3, (float, int)),
        (None, schema.Maybe(int)),
        ({"a": 1, "more": "x"}, {"a": int, "b": schema.Maybe(str)}),
        ({"a": 1, "b": 2}, schema.Each(int)),
        ([1, 2], schema.List(int)),
        ([1, "a"], schema.Row(int, str)),
        (LONG, schema.Either(schema.Numbers("i"), schema.List(schema.Numbers("i")))),
        ([LONG], schema.Either(schema.Numbers("i"), schema.List(schema.Numbers("i")))),
        (FLOAT, schema.Numbers("f", (None,))),
    ],
)
def test_what_fits(value: Any, rule: Any) -> None:
    assert schema.fault(value, rule) == ""
    schema.check(value, rule, "file", "such a file")


@pytest.mark.parametrize(
    "value, rule, told",
    [
        (True, int, "must be int, not bool"),
        ({"a": "x"}, {"a": int}, "a must be int, not str"),
        ({}, {"a": int}, "it lacks a"),
        ({1: 1}, schema.Each(int), "its keys must be strings, not 1"),
        ([1, "a"], schema.List(int), r"\[1\] must be int, not str"),
        ([1], schema.Row(int, str), "a list of 2 values"),
        (
            [FLOAT],
            schema.Either(int, schema.List(schema.Numbers("i"))),
            r"\[0\] must be a tensor of",
        ),
        (torch.tensor([torch.nan]), schema.Numbers("f"), "holds NaN or infinity"),
        (FLOAT, schema.Numbers("f", (None, 3)), r"has the shape \(1,\), not \(any, 3\)"),
    ],
)
def test_what_does_not(value: Any, rule: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        schema.check(value, rule, "file", "such a file")
