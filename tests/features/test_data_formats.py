"""RecBole's own data sets, as RecBole offers them, with no file that describes them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from atomic_files import DATA_SETS, write
from recbole.data import create_dataset
from tiny import arguments, settings, typed

from recbole_mscgrec.cli import main
from recbole_mscgrec.config.config import Config, properties_folder
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.features.text import item_texts, read_items
from recbole_mscgrec.features.text_columns import text_columns_of


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a small model, with nothing said about the data but where they are."""
    chosen = settings(folder, collaborative_epochs=1, MAX_ITEM_LIST_LENGTH=8, **changes)
    del chosen["load_col"]
    return chosen


def texts_of(config: Config) -> list[str]:
    data = create_dataset(config)
    chosen = typed(config, data)
    return item_texts(chosen.text, chosen.files, data)


def config_of(folder: Path, name: str, **changes: Any) -> Config:
    write(folder / "data" / name, name)
    return Config("MSCGRec", name, config_dict=small(folder, **changes))


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_command_trains_an_epoch(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data" / name, name)
    chosen = small(tmp_path, result_file="result.json")
    assert main(["--model=MSCGRec", f"--dataset={name}", *arguments(chosen)]) == 0
    health = json.loads(Path("result.json").read_text())["code_health"]
    text = [] if DATA_SETS[name].text is None else ["text"]
    assert sorted(health) == ["collaborative", *text]


@pytest.mark.parametrize("name", [n for n, data in DATA_SETS.items() if data.text is not None])
def test_the_text_columns_are_those_that_a_person_would_take(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = config_of(tmp_path, name)
    data = create_dataset(config)
    settings_of = typed(config, data)
    items = read_items(settings_of.files, data)
    assert items is not None
    assert text_columns_of(items.frame, items.types, items.key) == DATA_SETS[name].text
    texts = item_texts(settings_of.text, settings_of.files, data)
    assert sum(bool(text) for text in texts) > 0.8 * (data.item_num - 1)
    assert not any("'" in text for text in texts)
    lines = [m for m in caplog.messages if m.startswith("text: ")]
    described = (properties_folder() / "dataset" / f"{name}.yaml").is_file()
    assert len(lines) == (0 if described else 1)


@pytest.mark.parametrize("name", [n for n, data in DATA_SETS.items() if not data.has_times])
def test_without_times_the_rows_keep_their_order_and_a_warning_says_so(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, name)
    test = create_dataset(config).build()[2]
    last: dict[str, str] = {}
    file = tmp_path / "data" / name / f"{name}.inter"
    columns = [c.split(":")[0] for c in file.read_text().splitlines()[0].split("\t")]
    user, item = columns.index("user_id"), columns.index(config["ITEM_ID_FIELD"])
    for line in file.read_text().splitlines()[1:]:
        last[line.split("\t")[user]] = line.split("\t")[item]
    rows = test.inter_feat
    tokens = {
        test.id2token("user_id", u): test.id2token(test.iid_field, i)
        for u, i in zip(rows["user_id"].tolist(), rows[test.iid_field].tolist(), strict=True)
    }
    assert tokens == last
    (line,) = [m for m in caplog.messages if "no time column" in m]
    assert "order of its rows" in line and "--TIME_FIELD" in line


def test_no_text_and_no_image_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from recbole_mscgrec.tokenizer.pipeline import tokenize

    config = config_of(tmp_path, "netflix")
    train = create_dataset(config).build()[0]
    tokenize(typed(config, train), train)
    (line,) = [m for m in caplog.messages if m.startswith("Modalities: ")]
    assert re.match(
        r"Modalities: collaborative\. No item has text \(.*netflix\.item does not", line
    )
    assert "image (no image at" in line


def test_columns_of_a_properties_file_are_those_that_are_there(tmp_path: Path) -> None:
    """ml-1m.yaml names director and plot too, which RecBole's file does not have."""
    config = config_of(tmp_path, "ml-1m")
    assert {"director", "plot"} < set(config["text_columns"])
    assert sum(map(bool, texts_of(config))) == 80


def test_columns_named_by_the_user_are_strict(tmp_path: Path) -> None:
    config = config_of(tmp_path, "ml-1m", text_columns=["movie_title", "plot"])
    with pytest.raises(ValueError, match=r"ml-1m.item has no column \['plot'\] \(text_columns\)"):
        texts_of(config)


def test_a_properties_file_none_of_whose_columns_is_there(tmp_path: Path) -> None:
    config = config_of(tmp_path, "ml-1m")
    file = tmp_path / "data" / "ml-1m" / "ml-1m.item"
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join(["item_id:token\ta:token_seq\tb:token\tc:token_seq", *lines]) + "\n")
    with pytest.raises(ValueError, match=r"has no column .*'plot'\] .*--text_columns=None"):
        texts_of(config)


def test_rows_that_nobody_clicked_are_told_with_how_to_leave_them_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, "mind-small-train")
    check_data(config)
    (line,) = [m for m in caplog.messages if "column 'label'" in m]
    options = dict(option.split("=", 1) for option in shlex.split(line.partition("ones: ")[2]))
    caplog.clear()
    given = {key.removeprefix("--"): value for key, value in options.items()}
    clicked = Config("MSCGRec", "mind-small-train", config_dict={**small(tmp_path), **given})
    check_data(clicked)
    assert not [m for m in caplog.messages if "label" in m]
    assert 0 < len(create_dataset(clicked)) < len(create_dataset(config))
