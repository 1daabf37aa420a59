"""Tables over models and seeds: what runs, what is refused, what is kept, what is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import protocol, settings

from recbole_mscgrec.cli import main, parse
from recbole_mscgrec.config.run_id import settings_of
from recbole_mscgrec.experiments import grid
from recbole_mscgrec.experiments.job import Cell
from recbole_mscgrec.runner.result import chosen_settings
from recbole_mscgrec.storage.digest import made_by


def argv(folder: Path, *options: str, sizes: Any = protocol, **changes: Any) -> list[str]:
    chosen = sizes(folder, **changes)
    del chosen["checkpoint_dir"]
    return ["--dataset=rule", *(f"--{key}={value}" for key, value in chosen.items()), *options]


def planned(*arguments: str) -> list[Cell]:
    known, chosen = parse(list(arguments))
    return grid.plan(known, dict(chosen))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Cells leave a small result at once; returns which of them ran, in their order."""
    cells: list[tuple[str, int]] = []

    def run_cell(cell: Cell) -> str | None:
        cells.append((cell.row.name, cell.seed))
        if cell.row.model == "BPR":
            return "out of luck"
        metrics = {"ndcg@10": 0.1 * cell.seed, "recall@10": 0.2}
        content = {
            "model": cell.row.model,
            "dataset": cell.dataset,
            "seed": cell.seed,
            "settings": settings_of(cell.config()),
            "chosen": chosen_settings(cell.config()),
            "made_by": made_by(),
            "best_valid_result": metrics,
            "test_result": metrics,
            "seconds": {"train": 1.0},
            "peak_memory_mb": 10.0,
            "n_parameters": 1,
        }
        cell.result_file.parent.mkdir(parents=True, exist_ok=True)
        cell.result_file.write_text(json.dumps(content))
        return None

    monkeypatch.setattr(grid, "run_cell", run_cell)
    return cells


# --- what runs ------------------------------------------------------------------------------------


def test_every_model_with_every_seed_once(rule_folder: Path, ran: list) -> None:
    options = ["--model_list=Pop, GRU4Rec,", "--seed_list=1,2", "--table_dir=out"]
    assert main(argv(rule_folder, *options)) == 0
    assert ran == [("Pop", 1), ("GRU4Rec", 1), ("Pop", 2), ("GRU4Rec", 2)]
    content = json.loads(Path("out/table.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["Pop", "GRU4Rec"]
    assert content["rows"][0]["test"]["ndcg@10"]["mean"] == pytest.approx(0.15)
    assert "| Pop | Pop | 1, 2 | 0.1500 ± 0.0707 |" in Path("out/table.md").read_text()


def test_finished_cells_are_not_run_again(rule_folder: Path, ran: list) -> None:
    first = argv(rule_folder, "--model_list=Pop", "--seed_list=1", "--table_dir=out")
    assert main(first) == 0 and main(first) == 0
    assert ran == [("Pop", 1)]
    more = argv(rule_folder, "--model_list=GRU4Rec,Pop", "--seed_list=1,2", "--table_dir=out")
    assert main(more) == 0
    assert ran[1:] == [("GRU4Rec", 1), ("GRU4Rec", 2), ("Pop", 2)]


def test_cells_of_another_process_are_left_to_it(
    rule_folder: Path,
    ran: list,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(grid, "taken", lambda config: config["model"] == "GRU4Rec")
    command = argv(rule_folder, "--model_list=Pop,GRU4Rec,NPE", "--table_dir=out")
    assert main(command) == 0
    assert ran == [("Pop", 2020), ("NPE", 2020)]
    assert "another process is running it" in Path("out/table.md").read_text()
    assert "failed" not in caplog.text
    monkeypatch.setattr(grid, "taken", lambda config: False)
    assert main(command) == 0
    assert ran[2:] == [("GRU4Rec", 2020)]


def test_a_cell_that_another_process_finished_meanwhile_is_not_run(
    rule_folder: Path, ran: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = grid.run_cell

    def run_both(cell: Cell) -> str | None:
        alone(cell._replace(row=cell.row._replace(name="GRU4Rec", model="GRU4Rec")))
        return alone(cell)

    monkeypatch.setattr(grid, "run_cell", run_both)
    assert main(argv(rule_folder, "--model_list=Pop,GRU4Rec", "--table_dir=out")) == 0
    assert ran == [("GRU4Rec", 2020), ("Pop", 2020)]


def test_a_failing_cell_is_reported_stops_nothing_and_is_tried_again(
    rule_folder: Path, ran: list
) -> None:
    command = argv(rule_folder, "--model_list=BPR,Pop", "--seed_list=1,2", "--table_dir=out")
    assert main(command) == 1 and len(ran) == 4
    text = Path("out/table.md").read_text()
    assert "| BPR | 1 | out of luck |" in text and "| BPR | 2 | out of luck |" in text
    assert "| Pop | Pop | 1, 2 |" in text
    assert main(command) == 1 and ran[4:] == [("BPR", 1), ("BPR", 2)]


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    rule_folder: Path, ran: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = argv(rule_folder, "--model_list=Pop,GRU4Rec", "--seed_list=1", "--table_dir=out")
    fake = grid.run_cell

    def stopped(cell: Cell) -> str | None:
        if cell.row.name == "GRU4Rec":
            raise KeyboardInterrupt
        return fake(cell)

    with monkeypatch.context() as patch:
        patch.setattr(grid, "run_cell", stopped)
        assert main(command) == 130
    assert "repeat the same command to continue" in capsys.readouterr().err
    text = Path("out/table.md").read_text()
    assert "| Pop | Pop | 1 |" in text and "| GRU4Rec | 1 | not run yet |" in text
    assert main(command) == 0 and ran == [("Pop", 1), ("GRU4Rec", 1)]


def test_a_table_without_any_result_is_a_failure(rule_folder: Path, ran: list) -> None:
    assert main(argv(rule_folder, "--model_list=BPR", "--table_dir=out")) == 1
    assert "| BPR | 2020 | out of luck |" in Path("out/table.md").read_text()


def test_rows_of_a_file_run_the_same_way(rule_folder: Path, ran: list) -> None:
    Path("rows.yaml").write_text(
        "- {name: base, note: as it is}\n"
        "- {name: wide, settings: {hidden_size: 32}}\n"
        "- {name: tiled, model: TiledSASRec, settings: {hidden_dropout_prob: 0.5}}\n"
    )
    command = argv(rule_folder, "--ablation=rows.yaml", "--table_dir=out", sizes=settings)
    assert main([*command, "--seed=7"]) == 0
    assert ran == [("base", 7), ("wide", 7), ("tiled", 7)]
    base, wide, tiled = json.loads(Path("out/table.json").read_text())["rows"]
    assert (base["settings"]["hidden_size"], wide["settings"]["hidden_size"]) == (16, 32)
    assert tiled["settings"]["hidden_dropout_prob"] == 0.5 and base["note"] == "as it is"
    ran.clear()
    assert main([*command, "--seed_list=7,8", "--rows=base,tiled"]) == 0
    assert ran == [("base", 8), ("tiled", 8)]
    assert [r["name"] for r in json.loads(Path("out/table.json").read_text())["rows"]] == [
        "base",
        "tiled",
    ]


def test_rows_without_a_file_are_refused(rule_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"rows \(base\) needs --ablation"):
        planned(*argv(rule_folder, "--rows=base"))


# --- settings -------------------------------------------------------------------------------------


def test_a_model_gets_the_settings_that_it_knows(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    mine, pop = planned(
        *argv(rule_folder, "--model_list=MSCGRec,Pop", "--codebook_size=5", "--beam_size=12")
    )
    assert mine.settings["codebook_size"] == 5 and "codebook_size" not in pop.settings
    assert mine.settings["epochs"] == pop.settings["epochs"] == 1
    left_out = [r.getMessage() for r in caplog.records if "not passed" in r.getMessage()]
    (line,) = [text for text in left_out if text.startswith("Pop ")]
    assert "codebook_size=5" in line and "beam_size=12" in line


def test_order_of_settings_is_files_then_command_line_then_row(rule_folder: Path) -> None:
    Path("mine.yaml").write_text("hidden_size: 8\ninner_size: 24\nn_levels: 3\n")
    Path("rows.yaml").write_text("- {name: base}\n- {name: b, settings: {n_levels: 4}}\n")
    base, b = planned(
        *argv(rule_folder, "--ablation=rows.yaml", "--config_files=mine.yaml"), "--inner_size=48"
    )
    assert (base.config()["hidden_size"], base.config()["inner_size"]) == (8, 48)
    assert (base.config()["n_levels"], b.config()["n_levels"]) == (3, 4)


def test_a_file_that_names_a_model_does_not_name_it_for_each_row(rule_folder: Path) -> None:
    Path("mine.yaml").write_text("model: MSCGRec\ndataset: elsewhere\nepochs: 3\n")
    (one,) = planned(*argv(rule_folder, "--model_list=Pop", "--config_files=mine.yaml"))
    assert one.row.model == "Pop" and not {"model", "dataset"} & one.settings.keys()
    assert one.dataset == "rule"


def test_diversity_is_measured_unless_told_otherwise(rule_folder: Path) -> None:
    (one,) = planned(*argv(rule_folder, "--model_list=Pop"))
    assert one.config()["test_metrics"] == ["ItemCoverage", "GiniIndex", "TailPercentage"]
    (one,) = planned(*argv(rule_folder, "--model_list=Pop", "--test_metrics=[]"))
    assert one.config()["test_metrics"] == []


def test_without_one_target_per_user_there_are_no_ranks(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ratio = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}
    (one,) = planned(*argv(rule_folder, "--model_list=Pop", eval_args=ratio))
    assert not one.ranked and one.config()["per_user_file"] is None
    assert "No significance is computed" in caplog.text


def test_the_default_folder_is_found_again_and_is_of_these_settings(rule_folder: Path) -> None:
    def folder(*options: str) -> Path:
        return planned(*argv(rule_folder, *options))[0].folder

    first = folder("--model_list=Pop")
    assert first == folder("--model_list=GRU4Rec,Pop", "--seed_list=1,2")
    assert first != folder("--model_list=Pop", "--learning_rate=0.5")
    assert first.parent == Path("saved/tables") and first.name.startswith("rule-models-")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_list=Pop,SASRek"], "model 'SASRek' is not known: did you mean SASRec"),
        (["--model_list=Pop", "--model=BPR"], "model (BPR) is not in model_list (['Pop'])"),
        (["--model_list="], "model_list is empty"),
        (["--model_list=Pop,Pop"], "pop occurs twice"),
        (["--model_list=Pop", "--seed_list=1,1"], "seed_list (1,1) names a seed twice"),
        (["--model_list=Pop", "--seed_list="], "seed_list () must be whole numbers"),
        (["--model_list=Pop", "--seed_list=1,x"], "seed_list (1,x) must be whole numbers"),
        (["--seed_list=1,2", "--seed=3"], "seed and seed_list are both given"),
        (["--model_list=Pop", "--codebook_size=5"], "codebook_size is not a setting"),
        (["--model_list=MSCGRec,Pop", "--beem_size=5"], "did you mean beam_size?"),
        (["--model_list=Pop", "--epochs=many"], "Pop: epochs ('many') must be a whole number"),
        (["--model_list=Pop", "--resume=True"], "resume cannot be set for a table"),
        (["--model_list=Pop", "--result_file=x"], "result_file cannot be set for a table"),
        (["--model_list=Pop", "--data_path=gone"], "gone"),
        (["--model_list=Pop", "--test_metrics=['x']"], "test_metrics (['x'])"),
        (["--model_list=Pop", "--ablation=components"], "both name rows"),
        (["--ablation=gone.yaml"], "gone.yaml does not exist"),
        (["--ablation=rows.yaml"], "row 'a': epoch is not a setting of RecBole or of MSCGRec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_refused_before_anything_runs(
    rule_folder: Path,
    ran: list,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("rows.yaml").write_text("- {name: a, settings: {epoch: 1}}\n")
    assert main(argv(rule_folder, *options)) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line
    assert ran == [] and not Path("saved").exists()


def test_results_of_other_settings_are_not_mixed_in(
    rule_folder: Path, ran: list, capsys: pytest.CaptureFixture[str]
) -> None:
    command = argv(rule_folder, "--model_list=Pop,GRU4Rec", "--table_dir=out")
    assert main(command) == 0
    assert main([*command, "--epochs=2"]) == 1
    assert "Pop_2020.json was made with other settings: epochs" in capsys.readouterr().err
    assert len(ran) == 2


# --- for real -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_table_from_the_command_line_to_the_file(rule_folder: Path) -> None:
    """Processes of their own: MSCGRec, Pop, and a row that cannot be."""
    Path("rows.yaml").write_text(
        "- {name: ours}\n"
        "- {name: image only, settings: {modalities: [image], target_modality: image}}\n"
        "- {name: popular, model: Pop}\n"
    )
    command = argv(rule_folder, "--ablation=rows.yaml", "--table_dir=out", sizes=settings)
    assert main(command) == 1  # a row failed
    content = json.loads(Path("out/table.json").read_text())
    ours, image, popular = content["rows"]
    assert ours["seeds"] == popular["seeds"] == [2020]
    assert "no item has it" in image["errors"]["2020"]
    found = popular["first_against_this"]
    assert found["n_users"] == 40
    difference = ours["test"]["ndcg@10"]["mean"] - popular["test"]["ndcg@10"]["mean"]
    assert found["metrics"]["ndcg@10"]["difference"] == pytest.approx(difference, abs=2e-6)
    assert {"itemcoverage@10", "giniindex@10", "tailpercentage@10"} <= set(popular["test"])
    assert {"collaborative", "train", "test"} <= set(ours["seconds"])
    assert ours["peak_memory_mb"] > 100 and ours["modalities"] == ["collaborative", "text"]
