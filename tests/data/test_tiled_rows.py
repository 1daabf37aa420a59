"""Tiled rows against RecBole's prefix rows of the same data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from recbole.config import Config as StockConfig
from recbole.data.dataset import SequentialDataset

from recbole_mscgrec.data import gathered_rows
from recbole_mscgrec.data.tiled_rows import TiledDataset, target_list_field
from recbole_mscgrec.storage import cache
from tests.conftest import make_config, write_dataset


def uneven_rows() -> list[tuple]:
    """Users with 1, 2, 3, 4, 5, 9 and 40 interactions, some at the same time, in mixed order."""
    rows = []
    for user, length in enumerate((1, 2, 3, 4, 5, 9, 40)):
        rows += [(user, (user * 3 + t * t) % 17, t // 2) for t in range(length)]
    return rows[::2] + rows[1::2]


def split(kind: type, length: int) -> tuple:
    config = make_config("TiledSASRec", "uneven", MAX_ITEM_LIST_LENGTH=length)
    assert isinstance(config, StockConfig)
    return config, kind(config).build()


@pytest.fixture(autouse=True)
def uneven(scratch: Path) -> None:
    write_dataset(scratch / "dataset", "uneven", uneven_rows(), None)


@pytest.mark.parametrize("length", [3, 7, 50])
def test_valid_and_test_rows_are_recboles_shortest_history_first(length: int) -> None:
    _, ours = split(TiledDataset, length)
    _, stock = split(SequentialDataset, length)
    for mine, theirs in zip(ours[1:], stock[1:], strict=True):
        by_user = mine.inter_feat["user_id"].argsort()
        for field in ("user_id", "item_id", "item_id_list", "item_length"):
            assert torch.equal(mine.inter_feat[field][by_user], theirs.inter_feat[field]), field
        lengths = mine.inter_feat["item_length"]
        assert bool((lengths.diff() >= 0).all())
        assert lengths.unique().numel() > 1


@pytest.mark.parametrize("length", [3, 7, 50])
def test_train_targets_are_those_of_the_prefix_rows(length: int) -> None:
    config, ours = split(TiledDataset, length)
    _, stock = split(SequentialDataset, length)
    mine: Counter = Counter()
    rows = ours[0].inter_feat
    for user, history, targets in zip(
        rows["user_id"].tolist(),
        rows["item_id_list"].tolist(),
        rows[target_list_field(config)].tolist(),
        strict=True,
    ):
        for t, target in enumerate(targets):
            if target:
                mine[user, target, tuple(history[: t + 1])] += 1
    theirs: Counter = Counter()
    rows = stock[0].inter_feat
    for user, target, history, n in zip(
        *(rows[f].tolist() for f in ("user_id", "item_id", "item_id_list", "item_length")),
        strict=True,
    ):
        theirs[user, target, tuple(history[:n])] += 1
    assert Counter((u, i) for u, i, _ in mine.elements()) == Counter(
        (u, i) for u, i, _ in theirs.elements()
    )
    # Histories are suffixes of RecBole's, and equal where the sequence fits one window.
    if length == 50:
        assert mine == theirs
    for user, target, history in mine:
        assert any(
            u == user and i == target and full[-len(history) :] == history for u, i, full in theirs
        )


def test_counts_and_items_seen_are_those_of_the_train_split() -> None:
    _, ours = split(TiledDataset, 7)
    _, stock = split(SequentialDataset, 7)
    assert ours[0].item_counter == stock[0].item_counter
    rows = stock[0].inter_feat
    shown = set(rows["item_id"].tolist()) | set(rows["item_id_list"].flatten().tolist())
    assert set(ours[0].items_seen().tolist()) == shown - {0}


def test_windows_end_with_the_newest_target() -> None:
    config, ours = split(TiledDataset, 7)
    rows = ours[0].inter_feat
    user = ours[0].token2id("user_id", "u6")
    targets = rows[target_list_field(config)][rows["user_id"] == user]
    # 40 interactions, 2 held out: 37 targets in windows of 7, the oldest window is the short one.
    assert sorted((targets != 0).sum(1).tolist()) == [2, 7, 7, 7, 7, 7]


def test_a_batch_of_windows_is_cut_to_its_longest() -> None:
    config, (train, valid, _) = split(TiledDataset, 50)
    field = target_list_field(config)
    whole, lengths = train.inter_feat, train.inter_feat["item_length"]
    short = (lengths < 4).nonzero().flatten()
    assert len(short) > 2 and whole["item_id_list"].size(1) == 50
    batch, longest = train[short], int(lengths[short].max())
    for name in ("item_id_list", field):
        assert torch.equal(batch[name], whole[name][short, :longest])
        assert not whole[name][short, longest:].any()
    assert train[torch.arange(len(train))][field].size(1) == int(lengths.max())
    assert train.inter_feat["item_id_list"].size(1) == 50  # the data set itself stays as it is
    assert valid[torch.arange(len(valid))]["item_id_list"].size(1) == 50


def test_split_without_train_rows_is_refused(scratch: Path) -> None:
    write_dataset(
        scratch / "dataset", "short", [(u, t, t) for u in range(4) for t in range(3)], None
    )
    config = make_config(
        "TiledSASRec", "short", eval_args={"split": {"RS": [0, 1, 1]}, "order": "TO"}
    )
    with pytest.raises(ValueError, match="train split is empty"):
        TiledDataset(config).build()


def targets_with_histories(config: StockConfig, rows: object) -> list[tuple]:
    """(user, target, history up to it) of every position of tiled rows."""
    fields = ("user_id", "item_id_list", "item_length", target_list_field(config))
    found = []
    for user, history, n, targets in zip(*(rows[f].tolist() for f in fields), strict=True):
        assert all(history[:n]) and not any(history[n:]) and not any(targets[n:])
        found += [(user, t, tuple(history[: i + 1])) for i, t in enumerate(targets) if t]
    return found


def test_no_split_holds_a_history_and_batches_are_gathered() -> None:
    config, splits = split(TiledDataset, 7)
    for part in splits:
        held = part.inter_feat.interaction
        assert all(column.dim() == 1 for column in held.values())
    rows = splits[0].inter_feat
    whole = {name: rows[name] for name in rows}
    fields = {"user_id", "item_id_list", "item_length", target_list_field(config)}
    assert set(whole) == set(rows.columns) == fields
    index = torch.tensor([5, 0, 5])
    for name, column in whole.items():
        assert torch.equal(rows[index][name], column[index]), name
        assert torch.equal(rows.to("cpu")[name], column), name
        assert torch.equal(rows.repeat(2)[name], torch.cat([column, column])), name
    assert set(rows[index].columns) == fields and rows["item_id_list"].dtype == torch.int64


def test_rows_in_another_order_have_their_own_histories() -> None:
    _, splits = split(TiledDataset, 7)
    torch.manual_seed(0)
    for part in splits:
        rows = part.inter_feat
        before = {
            int(u): h.tolist() for u, h in zip(rows["user_id"], rows["item_id_list"], strict=True)
        }
        order = rows["user_id"].tolist()
        rows.shuffle()
        assert rows["user_id"].tolist() != order
        after = {
            int(u): h.tolist() for u, h in zip(rows["user_id"], rows["item_id_list"], strict=True)
        }
        if part is not splits[0]:  # of which a user has several
            assert before == after and len(after) > 3


def test_the_fingerprint_of_gathered_rows_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathered_rows, "_ROWS_AT_ONCE", 3)
    _, splits = split(TiledDataset, 7)
    for rows in (part.inter_feat for part in splits):
        assert len(rows) > 3
        for name in rows:
            in_blocks = cache.fingerprint(rows=rows.in_blocks(name))
            assert in_blocks == cache.fingerprint(rows=rows[name])


def test_without_times_the_order_of_the_file_counts(scratch: Path) -> None:
    folder = scratch / "dataset" / "untimed"
    folder.mkdir()
    rows = [f"u{u}\ti{(u + t) % 9}" for u in range(9) for t in range(6)]
    text = "\n".join(["user_id:token\titem_id:token", *rows]) + "\n"
    (folder / "untimed.inter").write_text(text, encoding="utf-8")
    columns = {"inter": ["user_id", "item_id"]}
    config = make_config("MSCGRec", "untimed", load_col=columns)
    train, _, test = TiledDataset(config).build()
    assert len(train) == 9
    for user, item in zip(
        *(test[:][name].tolist() for name in ("user_id", "item_id")), strict=True
    ):
        u = int(test.id2token("user_id", user)[1:])
        assert test.id2token("item_id", item) == f"i{(u + 5) % 9}"  # the last of the file
