"""Rows read, dropped by which filter, and kept; a filter that leaves nothing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset
from tiny import protocol

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.storage.errors import UserError

LOAD = {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "price"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five users with items i0 to i3, rated 0 to 3; user u0 has i0 twice more, and i9 once.
    The .item file does not name i9."""
    rows = [f"u{u}\ti{k}\t{k}\t{100 * u + k}" for u in range(5) for k in range(4)]
    rows += ["u0\ti0\t2\t50", "u0\ti0\t2\t51", "u0\ti9\t2\t52"]
    folder = tmp_path / "data" / "d"
    folder.mkdir(parents=True)
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "d.inter").write_text(head + "\n".join(rows) + "\n")
    items = "".join(f"i{k}\t{k}\n" for k in range(4))
    (folder / "d.item").write_text("item_id:token\tprice:float\n" + items)
    return tmp_path


def load(folder: Path, **changes: Any) -> Any:
    chosen = {"load_col": LOAD, **changes}
    return create_dataset(Config("Pop", "d", config_dict=protocol(folder, **chosen)))


@pytest.mark.parametrize(
    ("settings", "line", "kept"),
    [
        ({"load_col": {"inter": LOAD["inter"]}}, "23 read; 23 kept.", 23),
        ({}, "23 read; dropped 1 by filter_inter_by_user_or_item; 22 kept.", 22),
        (
            {"rm_dup_inter": "first", "val_interval": {"rating": "[1,inf)"}},
            "23 read; dropped 2 by rm_dup_inter, 5 by val_interval, "
            "1 by filter_inter_by_user_or_item; 15 kept.",
            15,
        ),
        (
            {"user_inter_num_interval": "[5,inf)"},
            "23 read; dropped 1 by filter_inter_by_user_or_item, "
            "16 by user_inter_num_interval and item_inter_num_interval; 6 kept.",
            6,
        ),
    ],
)
def test_one_line_tells_where_rows_went(
    data: Path, caplog: pytest.LogCaptureFixture, settings: dict, line: str, kept: int
) -> None:
    caplog.set_level("INFO")
    assert len(load(data, **settings)) == kept
    assert [m for m in caplog.messages if "read;" in m] == [f"Interactions: {line}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_interval": {"rating": "[9,inf)"}}, r"^val_interval=.* leaves no interaction: 23 "),
        ({"val_interval": {"price": "[9,inf)"}}, r"^val_interval=.*price.* leaves no item: 23 "),
        (
            {"user_inter_num_interval": "[9,inf)"},
            r"^user_inter_num_interval=\[9,inf\) leaves no .*1 by filter_inter_by_user_or_item",
        ),
    ],
)
def test_the_filter_that_leaves_nothing_is_named(data: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(data, **settings)
