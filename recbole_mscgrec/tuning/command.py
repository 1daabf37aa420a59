"""The option `--tune`: searches settings until enough trials are finished, and reports the best."""

from __future__ import annotations

import argparse
import importlib.util
import re
import time
from datetime import datetime
from logging import getLogger
from typing import TYPE_CHECKING, Any

from recbole_mscgrec.storage.errors import UserError

# Optuna is an extra: modules that import it are imported after a check that it is installed.
if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from recbole_mscgrec.tuning.plan import Plan

_EXTRA = ("optuna", "plotly")
_SAME_FAILURES = 3  # the search ends if this many first trials fail for the same reason
_FAILURES_IN_A_ROW = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a search."""
    group = parser.add_argument_group("search of settings")
    group.add_argument(
        "--tune",
        metavar="FILE",
        help="search the settings of this file, YAML or RecBole's format, with Optuna",
    )
    group.add_argument("--tune_trials", type=_whole, help="total trials of the study (default 20)")
    group.add_argument(
        "--tune_timeout", type=_seconds, help="seconds after which no further trial begins"
    )
    group.add_argument(
        "--tune_warmup",
        type=_whole,
        help="epochs of a trial before it may be pruned (default 5); the value of epochs: never",
    )
    group.add_argument("--tune_dir", help="folder of the study and its results")


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0")
    return seconds


def asked_for(options: argparse.Namespace) -> bool:
    """Whether the command line asks for a search. Raises UserError for options of a search without
    --tune."""
    others = [name for name in vars(options) if name.startswith("tune_")]
    given = [name for name in others if getattr(options, name) is not None]
    if given and options.tune is None:
        raise UserError(f"{given[0]} needs --tune=FILE, which names the settings to search.")
    return options.tune is not None


def run(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Search until the study has enough trials. The same command continues a study, and in several
    processes they share it.

    Returns:
        The settings of the best trial, those of best.yaml.

    Raises:
        UserError: before anything runs, an option, the search space or a setting is invalid, or the
            study has other settings; later, the first trials fail for the same reason, or no trial
            was complete.
        KeyboardInterrupt: with a text that says how to continue.
    """
    lacking = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"--tune needs {' and '.join(lacking)}: run pip install 'recbole-mscgrec[tune]'."
        )
    from recbole_mscgrec.tuning import plan as plans
    from recbole_mscgrec.tuning import report
    from recbole_mscgrec.tuning import study as studies

    plan = plans.plan(options, settings)
    study = studies.open_study(plan)
    n_done = studies.n_counted(study)
    getLogger().info(f"{plan.folder}: {n_done} of {plan.n_trials} trials are finished.")
    try:
        _search(study, plan)
    except KeyboardInterrupt:
        _report(study, plan)
        raise KeyboardInterrupt(
            f"Stopped after {studies.n_counted(study)} of {plan.n_trials} trials; their results "
            f"are in {plan.folder}. Repeat the same command to continue."
        ) from None
    _report(study, plan)
    best = report.best_of(study)
    if best is None:
        raise UserError(
            f"No trial of {plan.folder} is complete; {plan.folder / 'trials.csv'} says why."
        )
    return report.settings_of(best)


def _search(study: optuna.Study, plan: Plan) -> None:
    from recbole_mscgrec.tuning import report, trial
    from recbole_mscgrec.tuning import study as studies

    since, began = datetime.now(), time.monotonic()
    failures: list[str] = []
    n_here = 0
    while plan.timeout is None or time.monotonic() - began < plan.timeout:
        following = studies.next_trial(study, plan, since)
        if following is None:
            return
        with following.held:
            number = following.trial.number
            getLogger().info(f"Trial {number}: {_drawn(following.trial.params)}")
            done = trial.run(study, following.trial, plan)
        trial.keep_best(study, plan)
        getLogger().info(f"Trial {number}: {_outcome(done, study, plan)}")
        report.write(study, plan)
        n_here += 1
        failures = [*failures, done.user_attrs[studies.REASON]] if _failed(done) else []
        _check_failures(failures, n_here, plan)
    getLogger().info(f"tune_timeout ({plan.timeout:g} s) is over: no further trial begins.")


def _failed(trial: FrozenTrial) -> bool:
    return trial.state.name == "FAIL"


def _check_failures(failures: list[str], n_here: int, plan: Plan) -> None:
    """Raise UserError if all trials so far have failed for the same reason (numbers in it do not
    count), or too many in a row for any reason."""
    kinds = {re.sub(r"[\d.]+", "#", reason) for reason in failures}
    same = n_here == len(failures) == _SAME_FAILURES and len(kinds) == 1
    if same or len(failures) >= _FAILURES_IN_A_ROW:
        raise UserError(
            f"The last {len(failures)} trials failed, so the search ends: {failures[-1]} Their "
            f"logs are in {plan.folder / 'logs'}."
        )


def _drawn(params: dict[str, Any]) -> str:
    from recbole_mscgrec.tuning.report import shown

    return ", ".join(f"{name} {shown(value)}" for name, value in params.items())


def _outcome(done: FrozenTrial, study: optuna.Study, plan: Plan) -> str:
    from recbole_mscgrec.tuning import report
    from recbole_mscgrec.tuning import study as studies

    if _failed(done):
        return f"failed: {done.user_attrs[studies.REASON]}"
    best = report.best_of(study)
    so_far = f"; best so far: trial {best.number}, {best.value:.6f}" if best else ""
    n_epochs = max(done.intermediate_values, default=-1) + 1
    value = report.best_value(done, plan)
    return f"{done.state.name.lower()} after {n_epochs} epochs, valid {plan.metric} {value}{so_far}"


def _report(study: optuna.Study, plan: Plan) -> None:
    """Write all files of the study, and log the table."""
    from recbole_mscgrec.tuning import page, report

    report.write(study, plan)
    page.write(study, plan)
    best = report.best_of(study)
    getLogger().info(f"\n{report.table(study, plan)}")
    if best is not None:
        getLogger().info(
            f"Best: trial {best.number}, valid {plan.metric} {best.value}. The test split was not "
            f"used. To train with its settings and test:\n{report.command(plan)}"
        )
        if model := report.model_file(best, plan):
            getLogger().info(f"To test its model as it is, add --model_file={model}")
    getLogger().info(f"{plan.folder} has trials.csv, best.yaml and the page study.html.")
