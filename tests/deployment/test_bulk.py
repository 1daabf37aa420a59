"""Many histories: in batches, in order, with finished ones kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_mscgrec.deployment import bulk
from recbole_mscgrec.deployment.asked import Asked


def write(out: Path, rows_of: Any, n: int = 5, **key: Any) -> int:
    asked = [Asked(f"u{i}", []) for i in range(n)]
    how = {"explain": False, "batch_size": 2, "show_progress": False}
    return bulk.write_all(out, asked, n, rows_of, key, **how)


def row(asked: Asked) -> dict[str, Any]:
    return {"user": asked.name, "rank": 1, "item": "i", "title": "", "score": -1.0, "code": "0"}


def test_rows_are_in_the_order_of_the_histories(tmp_path: Path) -> None:
    sizes = []

    def rows_of(batch: list[Asked]) -> list[dict[str, Any]]:
        sizes.append(len(batch))
        return [row(each) for each in batch]

    assert write(tmp_path / "out.csv", rows_of) == 5
    assert sizes == [2, 2, 1]
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["u0", "u1", "u2", "u3", "u4"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(
    ("later", "made_again"), [("same", ["u2", "u4"]), ("other", ["u0", "u2", "u4"])]
)
def test_after_a_stop_finished_batches_are_used_for_the_same_question(
    tmp_path: Path, later: str, made_again: list[str]
) -> None:
    def stopped(batch: list[Asked]) -> list[dict[str, Any]]:
        if batch[0].name == "u2":
            raise KeyboardInterrupt
        return [row(each) for each in batch]

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.csv", stopped, question="same")
    assert not (tmp_path / "out.csv").exists()
    firsts = []

    def rows_of(batch: list[Asked]) -> list[dict[str, Any]]:
        firsts.append(batch[0].name)
        return [row(each) for each in batch]

    write(tmp_path / "out.csv", rows_of, question=later)
    assert firsts == made_again
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 5
