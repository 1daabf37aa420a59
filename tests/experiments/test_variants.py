"""Rows out of model names and of YAML files, and what cannot be a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mscgrec.config.config import Config, properties_folder
from recbole_mscgrec.config.parsing import read_settings
from recbole_mscgrec.experiments.variants import Row, read_rows, rows_of_models, select_rows

SHIPPED = sorted((properties_folder() / "ablation").glob("*.yaml"))


def write(text: str) -> Path:
    Path("rows.yaml").write_text(text)
    return Path("rows.yaml")


def test_models_become_rows_in_their_order() -> None:
    rows = rows_of_models(["MSCGRec", "Pop"])
    assert rows == [Row("MSCGRec", "MSCGRec", {}), Row("Pop", "Pop", {})]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "model_list is empty"),
        (["Pop", "Pop"], "model_list: pop occurs twice"),
        (["Pop", "SASRek"], "'SASRek' is not known: did you mean SASRec"),
    ],
)
def test_model_lists_that_are_refused(models: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of_models(models)


def test_rows_of_a_file() -> None:
    file = write(
        "- name: base\n"
        "- {name: 'slow, high', settings: {learning_rate: 1e-4, modalities: [text]}, note: why}\n"
        "- {name: other, model: TiledSASRec}\n"
    )
    base, slow, other = read_rows(file, "MSCGRec")
    assert base == Row("base", "MSCGRec", {}, "")
    assert slow == Row(
        "slow, high", "MSCGRec", {"learning_rate": 0.0001, "modalities": ["text"]}, "why"
    )
    assert slow.slug == "slow-high" and other.model == "TiledSASRec"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a list of rows"),
        ("name: x", "must hold a list of rows"),
        ("- [", "is not YAML"),
        ("- text", "row 1 must be a mapping with a name, not 'text'"),
        ("- name: a\n- settings: {epochs: 1}", "row 2 must be a mapping with a name"),
        ("- {name: a, setting: {epochs: 1}}", r"row 1 has \['setting'\]; a row holds"),
        ("- {name: a, settings: [epochs]}", "row 1: settings must be a mapping"),
        ("- {name: a, settings: {seed: 1}}", "row 1: seed cannot be set for a table.*--seed_list"),
        ("- {name: a}\n- {name: a}", "a occurs twice"),
        ("- {name: a b}\n- {name: a-b}", "a-b occurs twice"),  # one file for both
        ("- {name: '***'}", "holds no letter or digit"),
        ("- {name: a, model: SASRek}", "'SASRek' is not known"),
    ],
)
def test_files_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rows(write(text), "MSCGRec")


def test_a_missing_file_is_named_with_those_that_come_along() -> None:
    with pytest.raises(ValueError, match="gone.yaml does not exist.*baselines, components"):
        read_rows("gone.yaml", "MSCGRec")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_files_that_come_along_are_valid(file: Path) -> None:
    """By their path in a checkout and by their name alone, wherever the package is."""
    rows = read_rows(file, "MSCGRec")
    assert rows == read_rows(file.stem, "MSCGRec") == read_rows(f"any/{file.name}", "MSCGRec")
    assert rows[0].settings == {} and rows[0].model == "MSCGRec"
    for row in rows:
        Config(row.model, "ml-100k", config_dict=dict(row.settings))  # keys and types


def test_no_row_of_the_components_repeats_the_default() -> None:
    default = Config("MSCGRec", "ml-100k")
    rows = read_rows("components", "MSCGRec")
    for row in rows[1:]:
        assert any(default[key] != value for key, value in row.settings.items()), row.name
    every = [sorted(row.settings.items(), key=str) for row in rows]
    assert all(every.count(settings) == 1 for settings in every)


def test_the_row_of_the_paper_is_its_file_but_for_the_batches() -> None:
    paper = read_settings(properties_folder() / "model" / "MSCGRec-paper.yaml")
    del paper["train_batch_size"]  # a row goes over the command line; batches are its business
    (row,) = select_rows(read_rows("components", "MSCGRec"), "form of the paper")
    assert row.settings == paper


def test_rows_chosen_by_name_keep_the_order_of_the_file() -> None:
    file = write("- name: base\n- {name: 'wide, deep'}\n- {name: Small}\n- {name: other}\n")
    rows = read_rows(file, "Pop")
    assert [row.name for row in select_rows(rows, "small, base")] == ["base", "Small"]
    assert [row.name for row in select_rows(rows, "wide-deep")] == ["wide, deep"]
    with pytest.raises(ValueError, match="larger is not a row; .* are base, wide-deep, Small"):
        select_rows(rows, "base,larger")
    with pytest.raises(ValueError, match="nothing is not a row"):
        select_rows(rows, " , ")
