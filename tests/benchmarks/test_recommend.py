"""Latency of an export folder: the folder that is measured, and the measurements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def recommend(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recommend")


def test_percentiles_of_calls_on_a_clock(recommend: ModuleType) -> None:
    times = iter([0.0, 0.001, 1.0, 1.002, 2.0, 2.003, 3.0, 3.004, 4.0, 4.005])
    calls = count()
    found = recommend.percentiles(lambda: next(calls), 0.0, lambda: next(times))
    assert found == {"p50": pytest.approx(3), "p99": pytest.approx(5), "calls": 5}
    assert next(calls) == 1 + 5  # one to warm up


@pytest.mark.slow
@pytest.mark.parametrize("transitions", [False, True])
def test_a_small_catalogue_gets_every_column(
    recommend: ModuleType, tmp_path: Path, transitions: bool
) -> None:
    n_bytes = recommend.write_export(tmp_path, 100, transitions)
    assert n_bytes == sum(file.stat().st_size for file in tmp_path.iterdir()) > 0
    clock = count()  # every reading is a second later
    found = recommend.measure(tmp_path, 0.0, lambda: float(next(clock)), "float32")
    assert found["load_seconds"] == 1 and found["half allowed, 64"]["p99"] == 1000
    table = recommend.table([{"items": 100, "mb_on_disk": n_bytes / 1e6, **found}])
    row = next(line for line in table.splitlines() if line.startswith("| 100 items"))
    assert row.count("1000.0 / 1000.0") == 8
