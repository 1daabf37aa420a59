"""Bad data is refused before anything slow, with what is wrong and what to do."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
from recbole.data import create_dataset
from tiny import protocol, rule_sequences, write_dataset, write_inter, write_table

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError


def check(folder: Path, dataset: str = "d", **changes: object) -> None:
    check_data(Config("TiledSASRec", dataset, config_dict=protocol(folder, **changes)))


def write_header(folder: Path, header: str) -> None:
    (folder / "data" / "d").mkdir(parents=True)
    (folder / "data" / "d" / "d.inter").write_text(f"{header}\nu\ti\t1\n")


def test_good_data_pass(rule_folder: Path) -> None:
    check(rule_folder, "rule")


def test_a_column_that_is_not_there_cannot_be_left_out(rule_folder: Path) -> None:
    with pytest.raises(UserError, match="unload_col names foo of .*rule.inter, which has user_id"):
        check(rule_folder, "rule", unload_col={"inter": ["foo"]}, load_col=None)


VALUES = {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}


@pytest.mark.parametrize("model", ["SASRec", "BPR", "TiledSASRec", "MSCGRec"])
def test_labels_that_nobody_has(rule_folder: Path, model: str) -> None:
    with pytest.raises(UserError, match="mode labeled needs labels, .* --threshold="):
        run(model, "rule", config_dict=protocol(rule_folder, **VALUES))


def test_labels_are_evaluated_by_models_that_predict_them(tmp_path: Path) -> None:
    header = "user_id:token item_id:token rating:float timestamp:float"
    rows = [f"u{n % 5} i{n % 7} {n % 2} {n}" for n in range(60)]
    (tmp_path / "data" / "rated").mkdir(parents=True)
    write_table(tmp_path / "data", "rated", "inter", header, rows)
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    rated = protocol(tmp_path, **VALUES, threshold={"rating": 1}, load_col=load)
    assert set(run("BPR", "rated", config_dict=rated)["test_result"]) == {"auc"}
    with pytest.raises(UserError, match="TiledSASRec predicts the next item, not labels"):
        run("TiledSASRec", "rated", config_dict=rated)


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec", "BPR", "NeuMF", "Pop"])
def test_a_threshold_filters_nothing(tmp_path: Path, model: str) -> None:
    write_header(tmp_path, RATED)
    chosen = protocol(tmp_path, threshold={"rating": 4}, load_col=None)
    with pytest.raises(UserError, match=rf"{model} reads none .* --val_interval=.*'\[4,inf\)'"):
        check_data(Config(model, "d", config_dict=chosen))


def test_a_saved_model_that_was_trained_with_a_threshold_stays_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_header(tmp_path, RATED)
    check(tmp_path, threshold={"rating": 4}, load_col=None, model_file="a.pth")
    assert "threshold ({'rating': 4}) makes labels" in caplog.text


def test_labels_that_are_not_read_are_told_also_with_a_threshold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_header(tmp_path, "user_id:token\titem_id:token\tlabel:float\ttimestamp:float")
    chosen = protocol(tmp_path, threshold={"label": 1}, load_col=None)
    learned = Config("NeuMF", "d", config_dict={**chosen, "train_neg_sample_args": None})
    check_data(learned)  # from the labels, and tested on all rows
    assert "has a column 'label', and all of its rows count as interactions" in caplog.text


def test_unknown_data_set_names_its_neighbours_and_where_to_put_files(rule_folder: Path) -> None:
    with pytest.raises(ValueError) as error:
        run("TiledSASRec", "mine", config_dict=protocol(rule_folder))
    for part in ("'mine' is not in", "there: rule", "mine.inter", "data_path", "ml-100k"):
        assert part in str(error.value)


def test_no_network(rule_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"'ml-1m' is not in.*there: rule.*no route to host"):
        run("TiledSASRec", "ml-1m", config_dict=protocol(rule_folder))
    assert [p.name for p in (rule_folder / "data").iterdir()] == ["rule"]  # nothing is left


def test_folder_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "data" / "d").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"d.inter does not exist: put"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("header", "missing", "key"),
    [
        ("user_id:token\ttimestamp:float", "item_id", "ITEM_ID_FIELD"),
        ("item_id:token\ttimestamp:float", "user_id", "USER_ID_FIELD"),
    ],
)
def test_missing_column(tmp_path: Path, header: str, missing: str, key: str) -> None:
    write_header(tmp_path, header)
    with pytest.raises(ValueError, match=rf"d.inter has no column '{missing}' \({key}\)"):
        check(tmp_path)


def test_a_time_column_that_the_user_names_has_to_be_there(tmp_path: Path) -> None:
    """One that nobody names may be absent: then the rows keep their order (test_time_order.py)."""
    write_header(tmp_path, "user_id:token\titem_id:token")
    with pytest.raises(ValueError, match=r"d.inter has no column 'when' \(TIME_FIELD\)"):
        check(tmp_path, TIME_FIELD="when")
    check(tmp_path)


def test_timestamp_under_another_name_can_be_named(tmp_path: Path) -> None:
    write_header(tmp_path, "user_id:token\titem_id:token\tt:float")
    check(tmp_path, TIME_FIELD="t", load_col={"inter": ["user_id", "item_id", "t"]})


def test_timestamp_that_is_not_loaded(tmp_path: Path) -> None:
    write_header(tmp_path, "user_id:token\titem_id:token\ttimestamp:float")
    with pytest.raises(ValueError, match=r"load_col reads .* but not 'timestamp'.*add it"):
        check(tmp_path, load_col={"inter": ["user_id", "item_id"]})


RATED = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_interval": {"rating": "[3,inf)"}}, "val_interval reads .* 'rating', .*--load_col="),
        ({"threshold": {"rating": 3}, **VALUES}, "threshold reads .* 'rating', .*--load_col="),
        ({"unload_col": {"inter": ["rating"]}}, "load_col .* and unload_col .* both name columns"),
        ({"load_col": None, "unload_col": {"inter": ["item_id"]}}, r"'item_id' \(ITEM_ID_FIELD\)"),
        ({"load_col": None, "unload_col": {"inter": ["timestamp"]}}, r"orders.*unload_col"),
        ({"eval_args": {"split": {"LS": "valid_only"}, "order": "TO"}}, "LS: valid_only leaves no"),
        ({"user_inter_num_interval": "5"}, r"user_inter_num_interval \('5'\) must be an interval"),
        ({"item_inter_num_interval": "[5,3]"}, r"item_inter_num_interval \('\[5,3\]'\) must be"),
        (
            {"val_interval": {"rating": "3"}, "load_col": None},
            r"val_interval of rating \('3'\) must",
        ),
        ({"val_interval": {"rating": "[a,b]"}, "load_col": None}, r"rating \('\[a,b\]'\) must be"),
        (
            {"val_interval": {"item_id": "[1,2]"}},
            r"val_interval of item_id .* such as \['a', 'b'\]",
        ),
        (
            {"val_interval": {"item_id": ["1", 2]}},
            r"strings, which 2 never equals: put it in quotes, such as \['1', '2'\]",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data(tmp_path: Path, changes: dict, message: str) -> None:
    write_header(tmp_path, RATED)
    with pytest.raises(UserError, match=message):
        check(tmp_path, **changes)


def test_unload_col_alone_leaves_the_other_columns(tmp_path: Path) -> None:
    write_inter(tmp_path / "data", "d", [("u", f"i{n}", float(n)) for n in range(4)])
    file = tmp_path / "data" / "d" / "d.inter"
    lines = file.read_text().splitlines()
    rows = [f"{line}\t{n}\t{n}" for n, line in enumerate(lines[1:])]
    file.write_text("\n".join([f"{lines[0]}\trating:float\tweight:float", *rows]) + "\n")
    settings = protocol(tmp_path, unload_col={"inter": ["rating"]})
    del settings["load_col"]
    config = Config("Pop", "d", config_dict=settings)
    check_data(config)
    columns = create_dataset(config).inter_feat.columns
    assert list(columns) == ["user_id", "item_id", "timestamp", "weight"]


def test_data_set_without_a_properties_file_needs_no_load_col(rule_folder: Path) -> None:
    settings = protocol(rule_folder)
    del settings["load_col"]
    check_data(Config("TiledSASRec", "rule", config_dict=settings))


def test_a_user_with_one_interaction_does_no_harm(tmp_path: Path) -> None:
    sequences = rule_sequences()
    write_dataset(tmp_path / "data", "d", {**sequences, "lonely": ["i3"]})
    write_dataset(tmp_path / "data", "e", sequences)
    with_lonely = run("TiledSASRec", "d", config_dict=protocol(tmp_path))
    without = run("TiledSASRec", "e", config_dict=protocol(tmp_path))
    assert with_lonely["test_result"] == pytest.approx(without["test_result"], abs=1e-6)


def test_intervals_of_items_and_several_at_once_pass(tmp_path: Path) -> None:
    write_header(tmp_path, RATED)
    (tmp_path / "data" / "d" / "d.item").write_text("item_id:token\tprice:float\ni\t1\n")
    both = {"rating": "[0,1];(2,inf)", "price": " [ 0 , 5e1 ] "}
    check(tmp_path, load_col=None, val_interval=both, user_inter_num_interval="[1,inf)")


@pytest.mark.parametrize("column", ["tags:token_seq", "vector:float_seq"])
def test_a_filter_by_sequences_is_refused(tmp_path: Path, column: str) -> None:
    write_header(tmp_path, f"{RATED}\t{column}")
    field = column.split(":")[0]
    with pytest.raises(UserError, match=rf"val_interval of {field} .*only by columns of type flo"):
        check(tmp_path, load_col=None, val_interval={field: ["1"]})


def test_a_filter_over_a_column_of_the_items_names_their_file(tmp_path: Path) -> None:
    write_header(tmp_path, RATED)
    (tmp_path / "data" / "d" / "d.item").write_text("item_id:token\tprice:float\ni\t1\n")
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    message = (
        "columns are item_id, user_id, timestamp. Add it to load_col, such as --load_col="
        "\"{'inter': ['user_id', 'item_id', 'timestamp'], 'item': ['item_id', 'price']}\"."
    )
    with pytest.raises(UserError, match=re.escape(message)):
        check(tmp_path, load_col=load, val_interval={"price": "[0,1]"})
    check(tmp_path, load_col=load | {"item": "*"}, val_interval={"price": "[0,1]"})


@pytest.mark.parametrize("model", ["TiledSASRec", "SASRec", "BPR"])
@pytest.mark.parametrize("length", [1, 2])
def test_sequences_that_leave_nothing_to_test_are_refused(
    tmp_path: Path, length: int, model: str
) -> None:
    rows = [(f"u{u}", f"i{(u + t) % 9}", float(t)) for u in range(20) for t in range(length)]
    write_inter(tmp_path / "data", "short", rows)
    if model == "BPR" and length == 2:  # which needs no history: one to train on and one to test
        assert run(model, "short", config_dict=protocol(tmp_path))["test_result"]
        return
    with pytest.raises(ValueError, match=r"split is empty \(eval_args .*interactions or more"):
        run(model, "short", config_dict=protocol(tmp_path))


def test_three_interactions_each_are_a_train_and_a_test_target(tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{u + t}", float(t)) for u in range(20) for t in range(3)]
    write_inter(tmp_path / "data", "short", rows)
    config = Config("TiledSASRec", "short", config_dict=protocol(tmp_path))
    train, valid, test = create_dataset(config).build()
    assert (len(train), len(valid), len(test)) == (20, 0, 20)
    token = {i: t for i, t in enumerate(test.field2id_token["item_id"].tolist())}
    users = test.field2id_token["user_id"][test.inter_feat["user_id"]].tolist()
    targets = [token[i] for i in test.inter_feat["item_id"].tolist()]
    assert targets == [f"i{int(u[1:]) + 2}" for u in users]
    learned = [token[i] for i in train.inter_feat["item_id_target_list"][:, 0].tolist()]
    assert sorted(learned) == sorted(f"i{u + 1}" for u in range(20))


@pytest.mark.parametrize(("model", "rows"), [("MSCGRec", "40 histories"), ("SASRec", "histories")])
def test_memory_is_estimated_before_it_is_taken(rule_folder: Path, model: str, rows: str) -> None:
    chosen = protocol(rule_folder, MAX_ITEM_LIST_LENGTH=10**10)
    with pytest.raises(UserError, match=rf"MAX_ITEM_LIST_LENGTH \(10000000000\): .*{rows}.*GiB"):
        run(model, "rule", config_dict=chosen)
