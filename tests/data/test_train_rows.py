"""The fingerprint of train rows follows every row; rows of different forms compare by targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole.data import create_dataset
from tiny import item_texts, protocol, rule_sequences, settings, train_split, write_dataset

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.train_rows import (
    check_same_rows,
    fingerprint_of_files,
    other_rows,
    train_rows,
)
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


def test_rows_of_all_forms_have_the_same_targets(rule_folder: Path) -> None:
    def found(model: str, **changes: Any) -> dict[str, str]:
        sizes = settings if model == "MSCGRec" else protocol
        config = Config(model, "rule", config_dict=sizes(rule_folder, **changes))
        return train_rows(create_dataset(config).build()[0])

    every = [
        *(found(model) for model in ("MSCGRec", "SASRec", "TiledGRU4Rec")),
        found("MSCGRec", train_rows="prefix"),
        found("SASRec", MAX_ITEM_LIST_LENGTH=3),
    ]
    assert len({rows["targets"] for rows in every}) == 1
    assert len({rows["rows"] for rows in every}) == len({rows["form"] for rows in every}) == 4
    sequences = rule_sequences()
    write_dataset(rule_folder / "data", "rule", dict(reversed(sequences.items())), item_texts())
    other = found("SASRec")  # the same users and items under other numbers
    assert all(other_rows(rows, other) for rows in every)


def test_other_rows_are_refused_with_both_fingerprints() -> None:
    ours = {"rows": "aa", "form": "TiledDataset, 50"}
    check_same_rows("resume", "x.pth", ours, ours)
    check_same_rows("resume", "x.pth", {}, ours)  # of an older version
    assert not other_rows({"rows": "bb", "form": "SequentialDataset, 50"}, ours)
    with pytest.raises(UserError, match=r"resume \(x.pth\).*fingerprint bb, and this run has aa"):
        check_same_rows("resume", "x.pth", {**ours, "rows": "bb"}, ours)


def test_the_fingerprint_of_files_follows_all_that_a_run_reads(rule_folder: Path) -> None:
    models = [rule_folder / "a.pth", rule_folder / "b.pth"]
    chosen = settings(rule_folder, text_encoder=str(rule_folder / "encoder"))
    chosen |= {"vectors_file": {"text": "vectors.npy"}, "rescore_model": [*map(str, models)]}
    chosen["image_dir"] = str(rule_folder / "pictures")
    files = [*models, Path("vectors.npy"), rule_folder / "data/rule/rule.inter"]
    files += [rule_folder / "encoder/weights", rule_folder / "pictures/1.png"]
    for file in (f for f in files if not f.exists()):
        file.parent.mkdir(exist_ok=True)
        file.write_text("one")
    config = {**chosen, "dataset": "rule", "data_path": str(rule_folder / "data/rule")}
    config |= {"codes_file": {}, "initial_model": None}
    seen = [fingerprint_of_files(config)]
    (rule_folder / "data/rule/rule.txt").write_text("not read")
    assert fingerprint_of_files(config) == seen[0]
    for file in files:
        with file.open("a") as stream:
            stream.write("more")
        seen.append(fingerprint_of_files(config))
    assert len({*seen}) == len(files) + 1
