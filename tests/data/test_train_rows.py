"""The fingerprint of train rows follows every row, and only rows of one form compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import item_texts, rule_sequences, train_split, write_dataset

from recbole_mscgrec.data.train_rows import check_same_rows, other_rows, train_rows
from recbole_mscgrec.storage.errors import UserError


def test_it_follows_rows_order_and_names(rule_folder: Path) -> None:
    def found() -> dict[str, str]:
        return train_rows(train_split(rule_folder)[1])

    first, sequences = found(), rule_sequences()
    assert found() == first
    u = sequences["u20"]
    changed = [
        {**sequences, "u20": [u[1], u[0], *u[2:]]},
        {**sequences, "u20": u[1:]},
        {("x" if user == "u20" else user): items for user, items in sequences.items()},
    ]
    seen = {first["rows"]}
    for other in changed:
        write_dataset(rule_folder / "data", "rule", other, item_texts())
        seen.add(found()["rows"])
    assert len(seen) == 4


def test_other_rows_are_refused_with_both_fingerprints() -> None:
    ours = {"rows": "aa", "form": "TiledDataset, 50"}
    check_same_rows("resume", "x.pth", ours, ours)
    check_same_rows("resume", "x.pth", {}, ours)  # of an older version
    assert not other_rows({"rows": "bb", "form": "SequentialDataset, 50"}, ours)
    with pytest.raises(UserError, match=r"resume \(x.pth\).*fingerprint bb, and this run has aa"):
        check_same_rows("resume", "x.pth", {**ours, "rows": "bb"}, ours)
