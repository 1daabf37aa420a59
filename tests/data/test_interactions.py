"""Values that decide who had what and when are never filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset
from tiny import protocol

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.storage.errors import UserError

HEAD = ["user_id:token", "item_id:token", "rating:float", "label:float", "timestamp:float"]
LOAD = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
RANDOM = {"split": {"RS": [8, 1, 1]}, "order": "RO", "mode": "full"}


def write(folder: Path, head: list[str], changes: dict[tuple[int, int], str]) -> None:
    """Three users with items i0 to i3; `changes` gives cells by row and column."""
    rows = [[u, f"i{k}", str(k), str(k % 2), str(100 + k)] for u in "ABC" for k in range(4)]
    for (row, column), text in changes.items():
        rows[row][column] = text
    file = folder / "data" / "d" / "d.inter"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join("\t".join(row) for row in [head, *rows]) + "\n")


def load(folder: Path, model: str = "Pop", **changes: Any) -> Any:
    chosen = {"load_col": LOAD, **changes}
    return create_dataset(Config(model, "d", config_dict=protocol(folder, **chosen)))


@pytest.mark.parametrize(
    ("column", "key", "settings"),
    [
        (0, r"user_id \(USER_ID_FIELD\)", {}),
        (1, r"item_id \(ITEM_ID_FIELD\)", {}),
        (4, r"timestamp \(TIME_FIELD\)", {}),
        (
            4,
            r"timestamp \(TIME_FIELD\)",
            {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "RO"}},
        ),
        (2, r"rating \(threshold\)", {"threshold": {"rating": 2}}),
        (3, r"label \(LABEL_FIELD\)", {"load_col": {"inter": [c.split(":")[0] for c in HEAD]}}),
    ],
)
def test_missing_values_are_refused_with_their_lines(
    tmp_path: Path, column: int, key: str, settings: dict
) -> None:
    write(tmp_path, HEAD, {(1, column): "", (5, column): ""})
    with pytest.raises(UserError, match=rf"d.inter: 2 of 12 rows have no {key}: .* lines 3, 7\."):
        load(tmp_path, **settings)


@pytest.mark.parametrize(
    ("column", "header", "message", "settings"),
    [
        (0, "user_id:float", r"user_id \(USER_ID_FIELD\) is of type float; .*user_id:token", {}),
        (1, "item_id:token_seq", r"item_id \(ITEM_ID_FIELD\) is of type token_seq", {}),
        (4, "timestamp:float_seq", r"timestamp \(TIME_FIELD\) is of type float_seq", {}),
        (2, "rating:token", r"rating \(threshold\) is of type token", {"threshold": {"rating": 2}}),
    ],
)
def test_columns_of_another_type_are_refused(
    tmp_path: Path, column: int, header: str, message: str, settings: dict
) -> None:
    head = list(HEAD)
    head[column] = header
    write(tmp_path, head, {(row, 0): "7" for row in range(12)} | {(r, 1): "8" for r in range(12)})
    with pytest.raises(UserError, match=message):
        load(tmp_path, **settings)


def test_labels_of_a_model_that_reads_them_are_numbers(tmp_path: Path) -> None:
    head = ["label:token" if column == "label:float" else column for column in HEAD]
    write(tmp_path, head, {})
    columns = [c.split(":")[0] for c in HEAD]
    with pytest.raises(UserError, match=r"label \(LABEL_FIELD\) is of type token"):
        load(tmp_path, "FM", load_col={"inter": columns})
    kept = load(tmp_path, load_col={"inter": columns}, val_interval={"label": ["1"]})
    assert len(kept) == 6


@pytest.mark.parametrize("header", ["timestamp:float", "timestamp:token"])
@pytest.mark.parametrize("wrong", ["yesterday", "2024-05-01", "—", "inf"])
def test_a_time_that_is_no_number_is_named_with_its_line(
    tmp_path: Path, header: str, wrong: str
) -> None:
    write(tmp_path, [*HEAD[:-1], header], {(6, 4): wrong})
    with pytest.raises(UserError, match=rf"d.inter, line 8: '{wrong}' in column timestamp"):
        load(tmp_path)


def test_times_of_type_token_are_filtered_as_numbers(tmp_path: Path) -> None:
    write(tmp_path, [*HEAD[:-1], "timestamp:token"], {})
    every = load(tmp_path).inter_feat["timestamp"]
    later = {"timestamp": f"({every.min()},inf)"}
    chosen = protocol(tmp_path, load_col=LOAD, val_interval=later)
    check_data(Config("Pop", "d", config_dict=chosen))
    kept = load(tmp_path, val_interval=later)
    assert len(kept) == (every > every.min()).sum() > 0


def test_rows_that_an_interval_cannot_judge_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, HEAD, {(1, 2): "", (5, 2): "NA"})
    assert len(load(tmp_path, val_interval={"rating": "[0,inf)"})) == 10
    (line,) = [m for m in caplog.messages if "val_interval" in m]
    assert "2 rows have no rating" in line and "lines 3, 7" in line


def test_a_missing_feature_is_still_the_mean(tmp_path: Path) -> None:
    """RecBole's rule for features, which decide nothing."""
    write(tmp_path, HEAD, {(1, 2): ""})
    ratings = load(tmp_path, normalize_all=False).inter_feat["rating"].tolist()
    assert ratings[1] == pytest.approx((0 + 2 + 3 + 2 * (0 + 1 + 2 + 3)) / 11)
