"""A table's numbers by hand, and tables of existing result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_mscgrec.experiments.report import Measured, compare, main, read_rows, table
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.user_ranks import Ranks


def result(seed: int, value: float, **changes: Any) -> dict[str, Any]:
    """Content of a result file whose metrics all follow from `value`."""
    return {
        "model": "Pop",
        "dataset": "rule",
        "seed": seed,
        "chosen": {"seed": seed, "epochs": 2},
        "best_valid_result": {"ndcg@10": 2 * value},
        "test_result": {"ndcg@10": value, "recall@10": value, "itemcoverage@10": 0.5},
        "seconds": {"data": 1.0, "train": 10.0 * seed},
        "peak_memory_mb": 100.0 + seed,
        "peak_memory_mb_after": {"data": 50.0 + seed, "train": 100.0 + seed},
        "peak_gpu_memory_mb": None,
        "n_parameters": 1234,
        **changes,
    }


def ranks(*places: int, order: list[int] | None = None) -> Ranks:
    where = list(range(len(places))) if order is None else order
    users = np.array([f"u{n}" for n in where])
    return Ranks(users, np.array([places[n] for n in where], dtype=np.int32), 10)


def row(name: str, values: dict[int, float], lists: dict[int, Ranks] | None = None) -> Measured:
    results = {seed: result(seed, value) for seed, value in values.items()}
    return Measured(name, "Pop", "", results, lists or {}, {})


def test_mean_and_sample_deviation_by_hand() -> None:
    (found,) = table([row("a", {1: 0.1, 2: 0.2, 3: 0.6})])["rows"]
    assert found["test"]["ndcg@10"]["mean"] == pytest.approx(0.3)
    assert found["test"]["ndcg@10"]["sd"] == pytest.approx(np.sqrt(0.14 / 2))
    assert found["valid"]["ndcg@10"]["mean"] == pytest.approx(0.6)
    assert found["test"]["ndcg@10"]["n"] == 3 and found["seeds"] == [1, 2, 3]
    assert found["seconds"]["train"]["mean"] == pytest.approx(20)
    assert found["peak_memory_mb"] == 103 and found["peak_memory_mb_after"]["data"] == 53
    assert found["settings"] == {"epochs": 2}


def test_one_seed_has_no_deviation() -> None:
    (found,) = table([row("a", {1: 0.1})])["rows"]
    assert found["test"]["ndcg@10"] == {"mean": 0.1, "sd": None, "n": 1}


def test_a_row_without_a_result_keeps_its_errors() -> None:
    found = table([row("a", {1: 0.1}), Measured("b", "Pop", "", {}, {}, {1: "no image"})])
    assert found["rows"][1]["errors"] == {"1": "no image"}
    assert found["rows"][1]["test"] == {} and found["rows"][1]["seeds"] == []
    assert "reason" in found["rows"][1]["first_against_this"]


def test_users_are_paired_by_name_whatever_their_order() -> None:
    places = [1, 3, 0, 7, 2, 0]
    lists = {1: ranks(*places), 2: ranks(*places)}
    mixed = {
        1: ranks(*places, order=[5, 2, 0, 1, 4, 3]),
        2: ranks(*places, order=[1, 0, 2, 3, 5, 4]),
    }
    found = compare(row("a", {1: 0.1, 2: 0.1}, lists), row("b", {1: 0.1, 2: 0.1}, mixed), 100)
    assert found["n_users"] == 6 and found["seeds"] == [1, 2]
    assert set(found["metrics"]) == {"ndcg@10", "recall@10"}  # no user has a coverage
    for values in found["metrics"].values():
        assert values == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_a_users_metric_is_the_mean_over_the_seeds_that_both_have() -> None:
    first = row("a", {1: 0, 2: 0, 3: 0}, {1: ranks(1, 1), 2: ranks(1, 0), 3: ranks(0, 0)})
    other = row("b", {1: 0, 2: 0, 4: 0}, {1: ranks(0, 0), 2: ranks(0, 1), 4: ranks(1, 1)})
    found = compare(first, other, 100)
    # Recall, seeds 1 and 2: user 0 has 1 against 0; user 1 has .5 against .5.
    assert found["seeds"] == [1, 2]
    assert found["metrics"]["recall@10"]["difference"] == pytest.approx(0.5)


def test_users_of_one_row_alone_are_left_out() -> None:
    first, other = row("a", {1: 0}, {1: ranks(1, 1, 1)}), row("b", {1: 0}, {1: ranks(1, 1)})
    assert compare(first, other, 100)["n_users"] == 2


def test_nothing_to_pair_gives_the_reason() -> None:
    with_ranks, without = row("a", {1: 0}, {1: ranks(1)}), row("b", {2: 0})
    assert compare(with_ranks, without, 10)["reason"].startswith("no seed")
    strangers = Measured(
        "c", "Pop", "", {1: result(1, 0)}, {1: Ranks(np.array(["x"]), np.array([1]), 10)}, {}
    )
    assert compare(with_ranks, strangers, 10)["reason"] == "no user in common"


def write(folder: Path, name: str, seed: int, value: float, lists: Ranks | None = None) -> str:
    file = folder / f"{name}_{seed}.json"
    file.write_text(json.dumps(result(seed, value)))
    if lists is not None:
        user_ranks.save(file.with_suffix(".npz"), lists)
    return str(file)


def test_existing_files_become_rows_by_their_names(tmp_path: Path) -> None:
    files = [write(tmp_path, "b_c", seed, 0.1 * seed, ranks(seed)) for seed in (1, 2)]
    files.append(write(tmp_path, "a", 1, 0.3))
    rows = read_rows(files)
    assert [(r.name, list(r.results), list(r.ranks)) for r in rows] == [
        ("b_c", [1, 2], [1, 2]),
        ("a", [1], []),
    ]
    assert [r.name for r in read_rows(files, first="a")] == ["a", "b_c"]


def test_report_to_the_screen_and_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path, "a", 1, 0.25, ranks(1, 2)), write(tmp_path, "b", 1, 0.5, ranks(2, 1))]
    assert main([*files, "--first=b", f"--table_dir={tmp_path / 'out'}"]) == 0
    text = capsys.readouterr().out
    assert "| b | Pop | 1 | 1.0000 | 0.5000 | 0.5000 |" in text and "| a | 2 | 1 |" in text
    assert (tmp_path / "out" / "table.md").read_text() == text
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [r["name"] for r in content["rows"]] == ["b", "a"]
    assert content["significance"]["resamples"] == 10_000


def test_files_that_give_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "speed.json").write_text("{}")
    one = write(tmp_path, "a", 1, 0.1)
    again = tmp_path / "a_2.json"
    again.write_text(Path(one).read_text())
    for files, message in (
        ([str(tmp_path / "speed.json")], "speed.json is not a result file"),
        ([one, str(again)], "row a has seed 1 twice"),
        ([one, "--first=z"], "first (z) must be one of the rows ['a']"),
        ([str(tmp_path / "gone_1.json")], "gone_1.json"),
    ):
        assert main(files) == 1
        assert message in capsys.readouterr().err
