"""Rankings without what the user had before, of beams and of dense scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer
from tiny import Built, build, protocol, random_sequences, write_dataset

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.seen_items import SeenItems
from recbole_mscgrec.runner.quick_start import run

# Item t of user u; nobody comes back, but u3 has i0 once more as the test's target.
HAD = {f"u{u}": [f"i{(u + t) % 9}" for t in range(5 + u % 2)] for u in range(6)}
HAD["u3"][-1] = HAD["u3"][0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", "seen", HAD)
    return tmp_path


def loaders(
    model: str, folder: Path, which: str = "all", **changes: Any
) -> tuple[Config, Any, Any, Any]:
    chosen = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "eval_batch_size": 4}
    chosen |= {"MAX_ITEM_LIST_LENGTH": 2, **changes}
    config = Config(model, "seen", config_dict=protocol(folder, **chosen))
    data = create_dataset(config)
    seen = SeenItems(data, which)
    _, valid, test = data_preparation(config, data)
    seen.leave_out(valid, test)
    return config, data, valid, test


def named(loader: Any, data: Any) -> dict[str, set[str]]:
    """User -> the items that the loader's batches name."""
    found: dict[str, set[str]] = {}
    for users, (row, item), _, _ in loader:
        for place, user in enumerate(users["user_id"].tolist()):
            items = data.field2id_token["item_id"][item[row == place].numpy()]
            found[data.id2token("user_id", user)] = set(items)
    return found


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec", "Pop"])
def test_loaders_name_all_that_users_had_before_the_target(model: str, folder: Path) -> None:
    """However short the history that the model gets; a target that comes back stays. What comes
    back only in the test is seen at validation: u3's i0."""
    _, data, valid, test = loaders(model, folder)
    assert named(valid, data) == {u: set(items[:-2]) - {items[-2]} for u, items in HAD.items()}
    assert named(test, data) == {u: set(items[:-1]) - {items[-1]} for u, items in HAD.items()}


@pytest.mark.parametrize("model", ["TiledSASRec", "Pop"])
def test_loaders_name_what_random_users_had_before(model: str, tmp_path: Path) -> None:
    """Few items, so that nearly everything comes back several times."""
    had = random_sequences(30, 6, shortest=4, longest=9)
    write_dataset(tmp_path / "data", "seen", had)
    _, data, valid, test = loaders(model, tmp_path)
    assert named(valid, data) == {u: set(items[:-2]) - {items[-2]} for u, items in had.items()}
    assert named(test, data) == {u: set(items[:-1]) - {items[-1]} for u, items in had.items()}


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec"])
def test_loaders_name_what_the_model_reads(model: str, folder: Path) -> None:
    """Of the last two items, here the history; u3 comes back to an item that it does not read."""
    _, data, valid, test = loaders(model, folder, "history")
    assert named(valid, data) == {u: set(items[-4:-2]) for u, items in HAD.items()}
    assert named(test, data) == {u: set(items[-3:-1]) for u, items in HAD.items()}
    longer = loaders(model, folder, "history", MAX_ITEM_LIST_LENGTH=9)[3]
    assert named(longer, data) == {u: set(items[:-1]) - {items[-1]} for u, items in HAD.items()}


@pytest.mark.parametrize(
    ("which", "longest", "valid_seen", "test_seen"),
    [
        ("all", 3, {"u0": {"i0", "i1", "i2"}, "u1": {"i4"}}, {"u0": {"i0", "i1", "i2", "i3"}}),
        ("history", 3, {"u0": {"i0", "i1", "i2"}, "u1": {"i4"}}, {"u0": {"i1", "i2", "i3"}}),
        ("history", 1, {"u0": {"i2"}, "u1": {"i4"}}, {"u0": {"i3"}}),
    ],
)
def test_loaders_name_the_items_of_given_histories(
    which: str, longest: int, valid_seen: Any, test_seen: Any, tmp_path: Path
) -> None:
    """Also those that are the target of no row, as a user's first item; u1's target comes back."""
    parts = {
        "train": ["u0 i0 i1", "u0 i0,i1 i2"],
        "valid": ["u0 i0,i1,i2 i3", "u1 i5,i4 i5"],
        "test": ["u0 i0,i1,i2,i3 i5", "u1 i5,i4,i5 i4"],
    }
    for part, rows in parts.items():
        lines = [row.replace(" ", "\t").replace(",", " ") for row in rows]
        file = tmp_path / "data" / "seen" / f"seen.{part}.inter"
        file.parent.mkdir(parents=True, exist_ok=True)
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        file.write_text("\n".join([head, *lines]) + "\n")
    chosen = {"load_col": None, "benchmark_filename": list(parts), "MAX_ITEM_LIST_LENGTH": longest}
    _, data, valid, test = loaders("SASRec", tmp_path, which, **chosen)
    assert named(valid, data) == valid_seen
    assert named(test, data) == test_seen | {"u1": {"i5"}}


def test_a_model_without_a_history_has_none_to_leave_out(folder: Path) -> None:
    with pytest.raises(ValueError, match="exclude_seen=history needs a sequential model"):
        loaders("Pop", folder, "history")
    with pytest.raises(ValueError, match="exclude_seen .'some'. must be 'none', 'all' or"):
        loaders("TiledSASRec", folder, "some")


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec"])
def test_dense_scores_of_these_items_are_minus_infinity(model: str, folder: Path) -> None:
    config, data, _, test = loaders(model, folder)
    built: Built = build(model, "seen", config.external_config_dict)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, built.model)
    trainer.tot_item_num = data.item_num
    trainer.item_tensor = test._dataset.get_item_feature()
    built.model.eval()
    for batch in test:
        users, (row, item), _, _ = batch
        scores = trainer._full_sort_batch_eval(batch)[1]
        expected = torch.zeros(len(users), data.item_num, dtype=torch.bool)
        expected[row, item] = expected[:, 0] = True
        assert torch.equal(scores.isinf(), expected)


def test_beams_leave_them_out(trained: Trained) -> None:
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    built = build("MSCGRec", "rule", chosen)
    seen = SeenItems(create_dataset(built.config))
    seen.leave_out(built.valid, built.test)
    trainer = get_trainer(built.config["MODEL_TYPE"], "MSCGRec")(built.config, built.model)
    built.model.eval()
    n_users, none = 0, torch.zeros(0, dtype=torch.long)
    for batch in built.test:
        nobody_had_any = trainer._full_sort_batch_eval((batch[0], (none, none), *batch[2:]))[1]
        plain = trainer._full_sort_batch_eval((batch[0], None, *batch[2:]))[1]
        assert torch.equal(nobody_had_any, plain)
        row, item = batch[1]
        lists = trainer._full_sort_batch_eval(batch)[1]
        for place, ranked in enumerate(lists.tolist()):
            assert not set(item[row == place].tolist()) & set(ranked)
            assert len(set(ranked) - {0}) == 10
            n_users += 1
    assert n_users == len(built.test._dataset)


def test_a_popular_item_that_all_had_ranks_behind_what_is_new(folder: Path) -> None:
    """By hand: Pop on five users who share three items; the fourth is the target."""
    write_dataset(folder / "data", "shared", {f"u{u}": ["i0", "i1", "i2", "i7"] for u in range(5)})
    chosen = protocol(folder, metric_decimal_place=3, topk=[1, 3], valid_metric="NDCG@3")
    result = {
        seen: run("Pop", "shared", config_dict={**chosen, "exclude_seen": seen})["test_result"]
        for seen in ("none", "all")
    }
    assert result["none"]["recall@1"] == 0.0
    assert result["all"]["recall@1"] == 1.0


def test_sampled_candidates_are_refused(folder: Path) -> None:
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni5"}
    with pytest.raises(ValueError, match="exclude_seen=all needs the ranking of all items"):
        run("Pop", "seen", config_dict=protocol(folder, eval_args=eval_args, exclude_seen="all"))
