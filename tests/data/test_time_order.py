"""Sequences follow the times as they are written in the file, for every model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from tiny import protocol

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.time_order import ordered_times

MODELS = ["TiledSASRec", "SASRec", "Pop"]
DAY, START = 86_400, 1_700_000_000
Row = tuple[str, str, str]  # user, item, time as it is written


def write(folder: Path, rows: list[Row], header: str = "timestamp:float", part: str = "") -> Path:
    file = folder / "data" / "d" / f"d{part}.inter"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"user_id:token\titem_id:token\t{header}", *("\t".join(row) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def splits(folder: Path, model: str, **changes: Any) -> list[Any]:
    chosen = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    config = Config(model, "d", config_dict=protocol(folder, **chosen | changes))
    return [loader._dataset for loader in data_preparation(config, create_dataset(config))]


def items(data: Any) -> dict[str, list[str]]:
    """User -> target items in the order of the rows."""
    found: dict[str, list[str]] = {}
    rows = data.inter_feat
    for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True):
        token = data.id2token("item_id", item)
        found.setdefault(data.id2token("user_id", user), []).append(token)
    return found


def sessions(step: float, unit: str = "{:.0f}", n_users: int = 40, n_items: int = 12) -> list[Row]:
    """Shuffled rows of users whose k-th item is ik, `step` apart."""
    draw = random.Random(int(step * 1e6))
    rows = [
        (f"u{user}", f"i{k}", unit.format(START + user * DAY + k * step))
        for user in range(n_users)
        for k in range(n_items)
    ]
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("step", [10, 100_000])
def test_the_last_item_by_time_is_the_test_target(tmp_path: Path, model: str, step: int) -> None:
    rows = [(u, f"i{k}", str(START + k * step)) for u in "ABC" for k in (4, 3, 2, 1)]
    write(tmp_path, rows)
    _, valid, test = splits(tmp_path, model)
    assert items(test) == {user: ["i4"] for user in "ABC"}
    assert items(valid) == {user: ["i3"] for user in "ABC"}


WRITTEN = {
    "seconds": (7, "{:.0f}"),
    "fractions": (0.001, "{:.3f}"),
    "with a zero fraction": (7, "{:.1f}"),
    "exponents": (7, "{:.12e}"),
    "milliseconds": (7, "{:.0f}000"),
    "microseconds": (7, "{:.0f}000000"),
}


@pytest.mark.parametrize("header", ["timestamp:float", "timestamp:token"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", WRITTEN)
def test_every_way_to_write_times_gives_the_same_order(
    tmp_path: Path, model: str, kind: str, header: str
) -> None:
    step, unit = WRITTEN[kind]
    write(tmp_path, sessions(step, unit), header)
    _, valid, test = splits(tmp_path, model)
    assert set(map(tuple, items(test).values())) == {("i11",)}
    assert set(map(tuple, items(valid).values())) == {("i10",)}


@pytest.mark.parametrize("unit", ["{}", "{}.0", "{}.250"])
def test_nanoseconds_are_told_apart(tmp_path: Path, unit: str) -> None:
    """Seven nanoseconds apart: float64 near 1.7e18 moves in steps of 256."""
    rows = [
        (f"u{u}", f"i{k}", unit.format(START * 10**9 + 7 * k)) for u in range(9) for k in range(9)
    ]
    random.Random(0).shuffle(rows)
    write(tmp_path, rows)
    assert set(map(tuple, items(splits(tmp_path, "SASRec")[2]).values())) == {("i8",)}


@pytest.mark.parametrize("model", MODELS)
def test_equal_times_keep_the_order_of_the_rows(tmp_path: Path, model: str) -> None:
    order = list(range(60))
    random.Random(1).shuffle(order)
    rows = [(f"u{u}", f"i{i}", str(START + n // 30)) for u in range(3) for n, i in enumerate(order)]
    write(tmp_path, rows)
    train, valid, test = splits(tmp_path, model)
    assert items(test) == {f"u{u}": [f"i{order[-1]}"] for u in range(3)}
    assert items(valid) == {f"u{u}": [f"i{order[-2]}"] for u in range(3)}
    if model == "TiledSASRec":
        windows = train.inter_feat["item_id_list"][train.inter_feat["user_id"] == 1]  # newest first
        shown = [train.id2token("item_id", i) for w in reversed(windows.tolist()) for i in w if i]
        assert shown == [f"i{i}" for i in order[:-3]]


def test_histories_of_stock_models_are_in_order(tmp_path: Path) -> None:
    write(tmp_path, sessions(7))
    test = splits(tmp_path, "SASRec")[2]
    for history in test.inter_feat["item_id_list"].tolist():
        shown = [test.id2token("item_id", i) for i in history if i]
        assert shown == [f"i{k}" for k in range(11)]


_TIME_SPLIT = pytest.mark.skipif(
    not hasattr(Dataset, "time_based_split"), reason="a split of RecBole 1.2.1"
)


@pytest.mark.parametrize(
    "split", [{"RS": [8, 2, 2]}, pytest.param({"TS": [8, 2, 2]}, marks=_TIME_SPLIT)]
)
def test_other_splits(tmp_path: Path, split: dict[str, Any]) -> None:
    rows = [(u, i, str(START + int(i[1:]) * 7)) for u, i, _ in sessions(7)]
    write(tmp_path, rows)
    args = {"split": split, "order": "TO", "group_by": "user", "mode": "full"}
    train, valid, test = (items(s) for s in splits(tmp_path, "Pop", eval_args=args))
    for user in test:
        assert len(test[user]) == 2 and valid[user]
        assert train[user] + valid[user] + test[user] == [f"i{k}" for k in range(12)]


def test_a_ratio_over_all_interactions(tmp_path: Path) -> None:
    rows = [(f"u{n % 5}", f"i{n}", str(START + 3 * n)) for n in range(50)]
    random.Random(2).shuffle(rows)
    write(tmp_path, rows)
    args = {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": None, "mode": "full"}
    _, valid, test = splits(tmp_path, "Pop", eval_args=args)
    assert sorted(sum(items(test).values(), [])) == sorted(f"i{n}" for n in range(45, 50))
    assert sorted(sum(items(valid).values(), [])) == sorted(f"i{n}" for n in range(40, 45))


def test_duplicates_are_removed_in_the_order_of_time(tmp_path: Path) -> None:
    """Of 20 rows of one time, `rm_dup_inter: last` keeps the last row of each item."""
    rows = [(f"u{u}", f"i{n % 10}", str(START)) for u in range(8) for n in range(20)]
    write(tmp_path, rows)
    train, valid, test = splits(tmp_path, "Pop", rm_dup_inter="last")
    for user in (f"u{u}" for u in range(8)):
        assert (items(train)[user] + items(valid)[user] + items(test)[user]) == [
            f"i{n}" for n in range(10)
        ]


def test_parts_of_a_benchmark_keep_their_rows(tmp_path: Path) -> None:
    parts = {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}
    for part, steps in parts.items():
        rows = [(f"u{u}", f"i{k}", str(START + 7 * k)) for u in range(4) for k in steps]
        write(tmp_path, rows, part=f".{part}")
    found = splits(tmp_path, "Pop", benchmark_filename=list(parts))
    for data, steps in zip(found, parts.values(), strict=True):
        assert items(data) == {f"u{u}": [f"i{k}" for k in steps] for u in range(4)}


def test_models_get_times_as_float32(tmp_path: Path) -> None:
    write(tmp_path, sessions(7))
    for split in splits(tmp_path, "SASRec"):
        assert str(split.inter_feat["timestamp"].dtype) == "torch.float32"
        assert str(split.inter_feat["timestamp_list"].dtype) == "torch.float32"


def test_a_missing_time_is_refused(tmp_path: Path) -> None:
    rows = sessions(7)
    rows[3] = (*rows[3][:2], "")
    rows[8] = (*rows[8][:2], "")
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=r"2 of 480 rows have no timestamp.* lines 5, 10"):
        splits(tmp_path, "SASRec")


@pytest.mark.parametrize("wrong", ["yesterday", "2024-05-01", "nan", "inf"])
def test_tokens_that_are_no_numbers_are_refused(tmp_path: Path, wrong: str) -> None:
    rows = sessions(7)
    rows[0] = (*rows[0][:2], wrong)
    write(tmp_path, rows, "timestamp:token")
    with pytest.raises(ValueError, match=r"d\.inter.*timestamp"):
        splits(tmp_path, "SASRec")


def test_random_numbers_are_ordered_as_they_are_written() -> None:
    """Against Python's own exact integers: numbers of 1 to 25 digits, many of them close."""
    draw = random.Random(3)
    base = draw.randrange(10**24)
    numbers = [base + draw.randrange(200) for _ in range(300)]
    numbers += [draw.randrange(10 ** draw.randrange(1, 25)) for _ in range(300)]
    values = ordered_times(pd.Series([str(n) for n in numbers]))
    for a, x in zip(numbers, values, strict=True):
        assert abs(a - x) <= 400 * np.spacing(float(a))
        for b, y in zip(numbers[:100], values, strict=False):
            assert (a < b) == (x < y) and (a == b) == (x == y)


def test_ml_100k_ends_every_user_by_the_times_of_the_file() -> None:
    import recbole

    file = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    frame = pd.read_csv(file, sep="\t", dtype=str)
    frame.columns = ["user", "item", "rating", "time"]
    frame["time"] = frame["time"].astype("int64")
    config = Config("TiledSASRec", "ml-100k", config_dict={"show_progress": False})
    data = create_dataset(config)
    kept = set(data.field2id_token["item_id"])
    frame = frame[frame["item"].isin(kept)].sort_values("time", kind="stable")
    last = frame.groupby("user")["item"].last().to_dict()
    assert items(data.build()[2]) == {user: [item] for user, item in last.items()}
