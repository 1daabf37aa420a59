"""Searches: what is tried, pruned, kept, shared, continued and refused."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from tiny import arguments, protocol, settings

from recbole_mscgrec.cli import main
from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tuning import command, page

OUT = Path("out")
RATES = "learning_rate: {uniform: [0.1, 0.9]}\n"


def argv(folder: Path, *options: str, model: str = "BPR", **changes: Any) -> list[str]:
    Path("space.yaml").touch()
    sizes = settings if model == "MSCGRec" else protocol
    chosen = arguments(sizes(folder, **changes))
    return [f"--model={model}", "--dataset=rule", "--tune=space.yaml", "--tune_dir=out"] + [
        *chosen,
        *options,
    ]


def rows() -> list[dict[str, str]]:
    with (OUT / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tune", storage="sqlite:///out/study.db").trials


Train = Callable[..., dict[str, Any]]


def result(chosen: dict[str, Any], value: float) -> dict[str, Any]:
    return {
        "best_valid_score": value,
        "best_valid_result": {"ndcg@10": value},
        "chosen": {key: chosen[key] for key in ("learning_rate", "seed") if key in chosen},
    }


def quick(model: str, dataset: str, chosen: dict[str, Any], report: Any) -> dict[str, Any]:
    """A training whose metric is the learning rate, a tenth more in each epoch."""
    rate = chosen["learning_rate"]
    for epoch in range(chosen["epochs"]):
        report(epoch, rate * (1 + epoch / 10))
    return result(chosen, rate * (1 + (chosen["epochs"] - 1) / 10))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, rule_folder: Path) -> Callable[[Train], Path]:
    """Puts a function in the place of the training. Returns the folder of the data."""
    Path("space.yaml").write_text(RATES)

    def put(train: Train = quick) -> Path:
        monkeypatch.setattr(quick_start, "train", train)
        monkeypatch.setattr(page, "write", lambda study, plan: None)  # see test_page.py
        return rule_folder

    return put


# --- what a search finds --------------------------------------------------------------------------


def test_the_best_on_validation_is_found_and_told(
    faked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main(argv(faked(), "--tune_trials=4", "--seed=7", epochs=3)) == 0
    found = rows()
    assert [row["trial"] for row in found] == ["0", "1", "2", "3"]
    assert {row["state"] for row in found} == {"complete"} and found[0]["epochs run"] == "3"
    best = max(found, key=lambda row: float(row["learning_rate"]))
    assert [row["remark"] for row in found if row is not best] == [""] * 3
    assert best["remark"] == "best"
    (exact,) = [t.params["learning_rate"] for t in trials() if str(t.number) == best["trial"]]
    assert yaml.safe_load((OUT / "best.yaml").read_text()) == {"learning_rate": exact}
    assert float(best["valid ndcg@10"]) == pytest.approx(1.2 * exact, abs=1e-6)
    assert f"| {best['trial']} | {best['learning_rate']} | 3 |" in caplog.text
    assert "--seed=7 --config_files=out/best.yaml" in caplog.text


def test_a_metric_that_is_better_when_small_is_minimized(faked: Any) -> None:
    main(argv(faked(), "--tune_trials=4", "--metrics=GiniIndex", "--valid_metric=GiniIndex@10"))
    best = min(rows(), key=lambda row: float(row["learning_rate"]))
    assert best["remark"] == "best"


@pytest.mark.parametrize(("warmup", "n_epochs"), [(2, 3), (4, 4)])
def test_a_trial_below_the_median_is_pruned_after_the_warmup(
    warmup: int, n_epochs: int, faked: Any
) -> None:
    begun = []

    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        begun.append(1)
        level = 1.0 if len(begun) < 6 else 0.1
        for epoch in range(chosen["epochs"]):
            report(epoch, level)
        return result(chosen, level)

    main(argv(faked(train), "--tune_trials=6", f"--tune_warmup={warmup}", epochs=4))
    *first, last = rows()
    assert {(row["state"], row["epochs run"]) for row in first} == {("complete", "4")}
    state = "pruned" if n_epochs < 4 else "complete"
    assert (last["state"], last["epochs run"]) == (state, str(n_epochs))


def test_each_combination_of_a_finite_space_is_trained_once(faked: Any) -> None:
    ran = []

    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        ran.append(chosen["learning_rate"])
        return quick(model, dataset, chosen, report)

    folder = faked(train)
    Path("space.yaml").write_text("learning_rate: {choice: [0.1, 0.2, 0.3]}\n")
    assert main(argv(folder, "--tune_trials=20")) == 0
    assert sorted(ran) == [0.1, 0.2, 0.3]
    assert sorted(row["learning_rate"] for row in rows()) == ["0.1", "0.2", "0.3"]


def test_the_time_is_limited(faked: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert main(argv(faked(), "--tune_timeout=0.01")) == 0
    assert len(rows()) == 1 and "tune_timeout (0.01 s) is over" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TiledSASRec", "BPR", "MSCGRec"])
def test_best_yaml_repeats_the_best_validation_to_the_last_digit(
    model: str, rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("space.yaml").write_text("learning_rate: {loguniform: [1e-3, 1e-1]}\n")
    tested: list[Any] = []
    evaluate = quick_start._run
    monkeypatch.setattr(quick_start, "_run", lambda config: tested.append(1))
    given = argv(rule_folder, "--tune_trials=2", model=model, epochs=2)
    assert main(given) == 0
    assert tested == []  # no trial looks at the test split
    monkeypatch.setattr(quick_start, "_run", evaluate)
    data = {"data_path": str(rule_folder / "data"), "use_gpu": False, "show_progress": False}
    again = quick_start.run(model, "rule", [str(OUT / "best.yaml")], data)
    best = max(t.value for t in trials())
    assert again["best_valid_score"] == best and again["test_result"]
    (kept,) = (OUT / "trials").glob("*/*.pth")  # of the best trial only
    assert quick_start.run(model, "rule", None, {**data, "model_file": str(kept)})[
        "best_valid_score"
    ] == pytest.approx(best, abs=1e-9)


# --- failures -------------------------------------------------------------------------------------


def test_a_trial_that_fails_is_told_and_the_search_goes_on(rule_folder: Path) -> None:
    Path("space.yaml").write_text("n_heads: {choice: [2, 3]}\nn_layers: {choice: [1, 2]}\n")
    given = argv(rule_folder, model="TiledSASRec", hidden_size=16, inner_size=16)
    assert main(given) == 0
    assert [row["state"] for row in rows()].count("complete") == 2
    failed = [row for row in rows() if row["state"] == "fail"]
    assert [row["n_heads"] for row in failed] == ["3", "3"]
    assert "not a multiple of the number of attention heads (3)" in failed[0]["remark"]
    log = (OUT / "logs" / f"{failed[0]['trial']}.log").read_text()
    assert "Traceback" in log


def test_the_same_failure_of_the_first_trials_ends_the_search(
    faked: Any, capsys: pytest.CaptureFixture
) -> None:
    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        raise UserError(f"rate ({chosen['learning_rate']}) is out of luck.")

    assert main(argv(faked(train))) == 1
    error = capsys.readouterr().err
    assert "The last 3 trials failed" in error and "is out of luck." in error
    assert [row["state"] for row in rows()] == ["fail"] * 3


def test_a_metric_that_is_no_number_is_a_failure(faked: Any) -> None:
    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        value = quick(model, dataset, chosen, report)["best_valid_score"]
        return result(chosen, float("nan") if value < 0.5 else value)

    assert main(argv(faked(train), "--tune_trials=3")) == 0
    states = {float(row["learning_rate"]) < 0.5: row["state"] for row in rows()}
    assert states == {True: "fail", False: "complete"}


# --- stop, continue, share ------------------------------------------------------------------------


def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(
    faked: Any, capsys: pytest.CaptureFixture
) -> None:
    given = argv(faked(), "--tune_trials=5", epochs=2)
    main(given)
    whole = [row["learning_rate"] for row in rows()]
    OUT.rename("whole")
    resumed: list[bool] = []

    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        resumed.append(chosen["resume"])
        if len(resumed) == 3:
            report(0, chosen["learning_rate"])
            Path(chosen["checkpoint_dir"]).mkdir(parents=True)
            Path(chosen["checkpoint_dir"], "x.last.pth").touch()
            raise KeyboardInterrupt
        return quick(model, dataset, chosen, report)

    faked(train)
    assert main(given) == 130
    error = capsys.readouterr().err
    assert "Stopped after 2 of 5 trials" in error and "Repeat the same command" in error
    assert main(given) == 0
    assert resumed == [False, False, False, True, False, False]
    assert [row["learning_rate"] for row in rows()] == whole
    assert [row["trial"] for row in rows()] == ["0", "1", "3", "4", "5"]


def test_the_number_of_trials_is_that_of_the_study(faked: Any) -> None:
    folder = faked()
    main(argv(folder, "--tune_trials=2"))
    main(argv(folder, "--tune_trials=2"))
    assert len(rows()) == 2
    main(argv(folder, "--tune_trials=3"))
    assert len(rows()) == 3


def test_processes_share_a_study(faked: Any) -> None:
    folder = faked()
    context = multiprocessing.get_context("fork")
    given = argv(folder, "--tune_trials=5")
    started = [context.Process(target=main, args=(given,)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=60)
    assert [process.exitcode for process in started] == [0, 0]
    assert main(given) == 0  # has nothing to do, and tells all
    found = rows()
    assert len(found) == 5 and {row["state"] for row in found} <= {"complete", "pruned"}
    assert len({row["learning_rate"] for row in found}) == 5  # none is drawn twice


def test_the_trial_of_a_killed_process_is_begun_again_at_once(faked: Any) -> None:
    def train(model: str, dataset: str, chosen: Any, report: Any) -> dict[str, Any]:
        report(0, chosen["learning_rate"])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    folder = faked(train)
    given = argv(folder, "--tune_trials=1")
    process = multiprocessing.get_context("fork").Process(target=main, args=(given,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    faked(quick)
    assert main(given) == 0
    killed, again = trials()
    assert killed.state.name == "FAIL" and again.state.name == "COMPLETE"
    assert killed.params == again.params and len(rows()) == 1


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("--epochs=2", "setting epochs was 1 and is 2"),
        ("--seed=3", "setting seed was 2020 and is 3"),
        ("--valid_metric=MRR@10", "setting valid_metric was NDCG@10 and is MRR@10"),
        ("--model=NPE", "model was BPR and is NPE"),
        ("space", "search of learning_rate was Range"),
        ("data", "content of the data was"),
    ],
)
def test_a_study_of_other_settings_is_refused(
    faked: Any, change: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    folder = faked()
    assert main(argv(folder, "--tune_trials=1")) == 0
    if change == "space":
        Path("space.yaml").write_text("learning_rate: {uniform: [0.2, 0.9]}\n")
    if change == "data":
        with (folder / "data/rule/rule.inter").open("a") as file:
            file.write("u0\ti1\t99\n")
    options = [change] if change.startswith("--") else []
    assert main(argv(folder, "--tune_trials=2", *options)) == 1
    error = capsys.readouterr().err
    assert told in error and "Choose another --tune_dir" in error
    assert len(trials()) == 1


def test_a_file_that_is_no_study_is_refused(faked: Any, capsys: pytest.CaptureFixture) -> None:
    OUT.mkdir()
    (OUT / "study.db").write_text("not a database, and long enough to be looked at\n" * 100)
    assert main(argv(faked())) == 1
    assert "out/study.db is not a study" in capsys.readouterr().err


def test_a_missing_package_is_told_with_its_command(
    faked: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = faked()
    find = command.importlib.util.find_spec
    monkeypatch.setattr(
        command.importlib.util, "find_spec", lambda n: None if n == "optuna" else find(n)
    )
    assert main(argv(folder)) == 1
    assert (
        "--tune needs optuna: run pip install 'recbole-mscgrec[tune]'." in capsys.readouterr().err
    )


def test_options_of_a_search_need_one(capsys: pytest.CaptureFixture) -> None:
    assert main(["--tune_trials=3"]) == 1
    assert "tune_trials needs --tune=FILE" in capsys.readouterr().err


def test_a_search_and_a_table_exclude_each_other(faked: Any, capsys: pytest.CaptureFixture) -> None:
    assert main(argv(faked(), "--model_list=BPR,NPE")) == 1
    assert "--tune and --model_list" in capsys.readouterr().err
