"""Data that come split: each row's history is all that its user had before, in any part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset, data_preparation
from tiny import item_texts, protocol, rule_sequences, settings, write_dataset

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError

PARTS = {"tr": (0, 1, 2, 3), "va": (4,), "te": (5, 6)}  # steps of every user
N_ITEMS, N_USERS = 9, 12


def item(user: int, step: int) -> str:
    return f"i{(user + step) % N_ITEMS}"


def write(folder: Path, names: str = "user_id item_id timestamp", times: bool = True) -> None:
    user, item_name, time = names.split()
    place = folder / "data" / "d"
    place.mkdir(parents=True)
    head = f"{user}:token\t{item_name}:token" + f"\t{time}:float" * times
    for part, steps in PARTS.items():
        rows = [
            f"u{u}\t{item(u, k)}" + f"\t{1_700_000_000 + k}" * times
            for k in (steps if not times else reversed(steps))
            for u in range(N_USERS)
        ]
        (place / f"d.{part}.inter").write_text("\n".join([head, *rows]) + "\n")


def write_histories(folder: Path, head: str = "item_id") -> None:
    """RecBole's own form: a history of at most four items in each row, and no times."""
    place = folder / "data" / "d"
    place.mkdir(parents=True)
    for part, steps in PARTS.items():
        lines = [f"user_id:token\t{head}_list:token_seq\t{head}:token"]
        for u in range(N_USERS):
            for k in filter(None, steps):
                history = " ".join(item(u, j) for j in range(max(k - 4, 0), k))
                lines.append(f"u{u}\t{history}\t{item(u, k)}")
        (place / f"d.{part}.inter").write_text("\n".join(lines) + "\n")


def config(folder: Path, model: str, **changes: Any) -> Config:
    sizes = settings if model.startswith("MSC") else protocol
    chosen = sizes(folder, benchmark_filename=list(PARTS), codebook_size=4, **changes)
    if sizes is protocol:
        del chosen["codebook_size"]
    del chosen["load_col"]
    return Config(model, "d", config_dict=chosen)


def rows_of(split: Any) -> set[tuple[str, tuple[str, ...], str]]:
    """(user, history, target) of every row."""
    rows, key = split.inter_feat, split.iid_field
    names, users = split.field2id_token[key], split.field2id_token[split.uid_field]
    histories = rows[f"{key}{split.config['LIST_SUFFIX']}"].tolist()
    lengths = rows[split.item_list_length_field].tolist()
    return {
        (users[u], tuple(names[i] for i in history[:n]), names[target])
        for u, history, n, target in zip(
            rows[split.uid_field].tolist(), histories, lengths, rows[key].tolist(), strict=True
        )
    }


def expected(part: str, longest: int) -> set[tuple[str, tuple[str, ...], str]]:
    return {
        (f"u{u}", tuple(item(u, j) for j in range(max(k - longest, 0), k)), item(u, k))
        for u in range(N_USERS)
        for k in PARTS[part]
        if k
    }


def splits(chosen: Config) -> list[Any]:
    return [loader._dataset for loader in data_preparation(chosen, create_dataset(chosen))]


@pytest.mark.parametrize("names", ["user_id item_id timestamp", "who asin when"])
@pytest.mark.parametrize("longest", [12, 3])
@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec", "MSCGRec"])
def test_plain_parts_get_histories_across_parts(
    tmp_path: Path, model: str, longest: int, names: str
) -> None:
    write(tmp_path, names)
    fields = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
    named = dict(zip(fields, names.split(), strict=True))
    prefix = {"train_rows": "prefix"} if model == "MSCGRec" else {}
    found = splits(config(tmp_path, model, MAX_ITEM_LIST_LENGTH=longest, **named, **prefix))
    if model == "TiledSASRec":  # windows: the same prefixes in fewer rows
        found[0].inter_feat = found[0].prefixes()
    for split, part in zip(found, PARTS, strict=True):
        assert rows_of(split) == expected(part, longest)
        assert len(split) == len(expected(part, longest))


def test_the_targets_of_each_part_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write(tmp_path)
    splits(config(tmp_path, "SASRec"))
    (line,) = [m for m in caplog.messages if m.startswith("Targets by part")]
    assert "tr 36 of 48 rows, va 12 of 12 rows, te 24 of 24 rows" in line


@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec"])
def test_parts_without_times_follow_each_other(tmp_path: Path, model: str) -> None:
    write(tmp_path, times=False)
    _, valid, test = splits(config(tmp_path, model))
    assert rows_of(valid) == expected("va", 12) and rows_of(test) == expected("te", 12)


def test_parts_that_are_not_in_the_order_of_time_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "data" / "d" / "d.te.inter").open("a") as file:
        file.write("u7\ti1\t1700000001\nu7\ti2\t1700000003\nu9\ti1\t0\n")
    with pytest.raises(UserError, match=r"2 users have .* first u7 \(te before tr\).*item_id_list"):
        splits(config(tmp_path, "TiledSASRec"))


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("model", ["SASRec", "MSCGRec"])
def test_parts_with_the_same_rows_are_refused(tmp_path: Path, model: str, times: bool) -> None:
    write(tmp_path, times=times)
    place = tmp_path / "data" / "d"
    twice = config(tmp_path, model)
    twice["benchmark_filename"] = ["tr", "te", "te"]
    with pytest.raises(UserError, match=r"the parts te and te have the same rows.* own history"):
        create_dataset(twice).build()
    (place / "d.va.inter").write_text((place / "d.te.inter").read_text())
    with pytest.raises(UserError, match="the parts va and te have the same rows"):
        create_dataset(config(tmp_path, model)).build()


def test_rows_that_a_later_part_repeats_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    place = tmp_path / "data" / "d"
    repeated = (place / "d.te.inter").read_text().splitlines()[-3:]
    with (place / "d.va.inter").open("a") as file:
        file.write("\n".join(repeated) + "\n")
    create_dataset(config(tmp_path, "SASRec")).build()
    assert "3 rows have the user, item and time of a row of an earlier part" in caplog.text


@pytest.mark.parametrize("longest", [12, 3])
@pytest.mark.parametrize("name", ["item_id", "asin"])
def test_given_histories_are_taken_as_they_are(tmp_path: Path, name: str, longest: int) -> None:
    write_histories(tmp_path, name)
    chosen = config(tmp_path, "SASRec", MAX_ITEM_LIST_LENGTH=longest, ITEM_ID_FIELD=name)
    for split, part in zip(splits(chosen), PARTS, strict=True):
        assert rows_of(split) == expected(part, min(longest, 4))
    result = run("SASRec", "d", config_dict={**chosen.external_config_dict})
    assert result["test_result"].keys() == result["best_valid_result"].keys()


def test_given_histories_are_refused_where_windows_are_built(tmp_path: Path) -> None:
    write_histories(tmp_path)
    with pytest.raises(UserError, match="MSCGRec builds histories itself .* item_id_list: give pa"):
        create_dataset(config(tmp_path, "MSCGRec"))


@pytest.mark.parametrize("parts", ["tr", ["tr", "te"], ["tr", "va", "te", "more"]])
def test_there_are_three_parts(tmp_path: Path, parts: object) -> None:
    write(tmp_path)
    chosen = {**config(tmp_path, "SASRec").external_config_dict, "benchmark_filename": parts}
    with pytest.raises(UserError, match=r"benchmark_filename \(.*\) must name three parts"):
        run("SASRec", "d", config_dict=chosen)


FILTERS = {
    "val_interval": {"timestamp": "[1,inf)"},
    "user_inter_num_interval": "[5,inf)",
    "item_inter_num_interval": "[5,inf)",
    "rm_dup_inter": "first",
}


@pytest.mark.parametrize("key", FILTERS)
def test_parts_are_not_filtered(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    chosen = config(tmp_path, "SASRec", **{key: FILTERS[key]})
    with pytest.raises(UserError, match=rf"{key} \(.* no effect with benchmark_filename .*filter"):
        check_data(chosen)
    chosen.chosen_keys -= {key}  # as if the properties of the data set had set it
    check_data(chosen)
    assert f"set {key} to None" in caplog.text
    caplog.clear()
    check_data(config(tmp_path, "SASRec", **{key: FILTERS[key]}, model_file="trained_so.pth"))
    assert f"{key} ({FILTERS[key]}) has no effect" in caplog.text


def test_filters_that_drop_nothing_are_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    check_data(config(tmp_path, "SASRec", user_inter_num_interval="[0, inf)", rm_dup_inter=None))
    assert "benchmark_filename" not in caplog.text


@pytest.mark.parametrize(
    ("column", "changes"), [("rating", {"threshold": {"rating": 1}}), ("label", {})]
)
def test_rows_of_parts_are_chosen_in_the_files(
    tmp_path: Path, column: str, changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, f"user_id item_id {column}")
    made = config(tmp_path, "BPR", load_col=None, **changes)
    told = "take the others out of the files"
    if changes:
        with pytest.raises(UserError, match=told):
            check_data(made)
    else:
        check_data(made)
        assert told in caplog.text


@pytest.mark.parametrize("changed", ["timestamp:float\trating:float", "timestamp:token"])
def test_parts_have_the_same_columns(tmp_path: Path, changed: str) -> None:
    write(tmp_path)
    file = tmp_path / "data" / "d" / "d.te.inter"
    file.write_text(file.read_text().replace("timestamp:float", changed))
    with pytest.raises(UserError, match=r"d.te.inter and d.tr.inter differ in the column \w+: all"):
        run("SASRec", "d", config_dict=config(tmp_path, "SASRec").external_config_dict)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "data" / "d" / "d.va.inter").unlink()
    with pytest.raises(UserError, match=r"d\.va\.inter does not exist"):
        run("SASRec", "d", config_dict=config(tmp_path, "SASRec").external_config_dict)


@pytest.mark.parametrize("model", ["MSCGRec", "TiledSASRec", "SASRec", "BPR"])
def test_parts_that_are_the_split_of_leave_one_out_give_its_result(
    tmp_path: Path, model: str
) -> None:
    sequences = rule_sequences()
    write_dataset(tmp_path / "data", "rule", sequences, item_texts())
    folder = tmp_path / "data" / "rule"
    head, *lines = (folder / "rule.inter").read_text().splitlines()
    parts: dict[str, list[str]] = {"tr": [head], "va": [head], "te": [head]}
    for line in lines:
        user, _, place = line.split("\t")
        from_the_end = len(sequences[user]) - int(float(place))
        parts[{1: "te", 2: "va"}.get(from_the_end, "tr")].append(line)
    for part, rows in parts.items():
        (folder / f"rule.{part}.inter").write_text("\n".join(rows) + "\n")
    together = [head, *(line for rows in parts.values() for line in rows[1:])]
    (folder / "rule.inter").write_text("\n".join(together) + "\n")  # ids in the same order
    sizes = settings if model == "MSCGRec" else protocol
    results = [
        run(model, "rule", config_dict=sizes(tmp_path, exclude_seen="all", **changes))
        for changes in ({}, {"benchmark_filename": list(parts)})
    ]
    assert results[0]["test_result"] == results[1]["test_result"]
    assert results[0]["best_valid_result"] == results[1]["best_valid_result"]
