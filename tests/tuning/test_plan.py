"""What is checked before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import arguments, protocol

from recbole_mscgrec.cli import parse
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tuning.plan import Plan, plan


def planned(folder: Path, space: str, *options: str, **changes: Any) -> Plan:
    Path("space.yaml").write_text(space)
    given = ["--model=TiledSASRec", "--dataset=rule", "--tune=space.yaml"]
    known, chosen = parse([*given, *arguments(protocol(folder, **changes)), *options])
    return plan(known, dict(chosen))


def test_a_plan_has_the_settings_of_all_trials(rule_folder: Path) -> None:
    Path("mine.yaml").write_text("n_layers: 1\nhidden_size: 8\nmodel: Pop\n")
    found = planned(
        rule_folder,
        "hidden_size: {choice: [16, 32]}\nhidden_dropout_prob: {choice: [0.5]}\n",
        "--config_files=mine.yaml",
        "--seed=7",
        "--tune_trials=9",
    )
    assert (found.seed, found.n_trials, found.timeout, found.warmup) == (7, 9, None, 5)
    assert (found.metric, found.bigger) == ("ndcg@10", True)
    assert found.folder == rule_folder / "saved" / "tune" / "TiledSASRec-rule-space"
    settings = found.settings({"hidden_size": 32, "hidden_dropout_prob": 0.5})
    # The file's hidden_size gives way to the search.
    assert (settings["hidden_size"], settings["n_layers"], settings["seed"]) == (32, 1, 7)
    assert settings["hidden_dropout_prob"] == 0.5 and settings["epochs"] == 1
    assert "model" not in settings  # best.yaml would name another than was searched


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("learning_rat: {uniform: [0.1, 0.2]}", "learning_rat is not.*did you mean learning_rate"),
        ("learning_rate: {uniform: [0.0, 0.2]}", r"learning_rate \(0.0\) must be a number, above"),
        ("hidden_dropout_prob: {uniform: [0.5, 1.5]}", r"hidden_dropout_prob \(1.5\) must be"),
        ("learner: {choice: [adam, adamm]}", r"learner \('adamm'\) must be"),
        ("stopping_step: {uniform: [1, 3]}", r"stopping_step \(1.0\) must be a whole number"),
        ("valid_metric: {choice: [MRR@10]}", "cannot be searched.*by different measures"),
        ("seed: {choice: [1, 2]}", "seed cannot be searched"),
        ("user_inter_num_interval: {choice: ['[5,inf)']}", "cannot be searched.*on different data"),
        ("eval_batch_size: {choice: [64]}", "does not affect the validation of TiledSASRec"),
    ],
)
def test_each_end_of_the_search_space_is_checked(space: str, told: str, rule_folder: Path) -> None:
    with pytest.raises(UserError, match=told):
        planned(rule_folder, space)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--learning_rate=0.1", "searched in space.yaml and set to 0.1 on the command line"),
        ("--eval_step=0", "a search chooses by it"),
        ("--result_file=x.json", "result_file cannot be set for a search"),
        ("--hiden_size=3", "did you mean hidden_size"),
    ],
)
def test_settings_that_do_not_fit_a_search_are_refused(
    option: str, told: str, rule_folder: Path
) -> None:
    with pytest.raises(UserError, match=told):
        planned(rule_folder, "learning_rate: {uniform: [0.1, 0.2]}", option)


@pytest.mark.parametrize("option", ["--tune_trials=0", "--tune_timeout=-1", "--tune_warmup=x"])
def test_options_out_of_their_range_are_refused(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse(["--tune=space.yaml", option])
    assert "must be a" in capsys.readouterr().err


def test_the_fingerprint_follows_the_data_and_the_settings(rule_folder: Path) -> None:
    space = "learning_rate: {uniform: [0.1, 0.2]}"
    first = planned(rule_folder, space).fingerprint
    assert planned(rule_folder, space, "--show_progress=True").fingerprint == first
    assert planned(rule_folder, space, "--hidden_size=16").fingerprint != first
    with (rule_folder / "data/rule/rule.item").open("a") as file:
        file.write("i99\tnew\n")
    differ = planned(rule_folder, space).fingerprint
    assert {k for k in first if first[k] != differ[k]} == {"content of the data"}
