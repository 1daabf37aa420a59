"""The plan of a search, with everything checked before the first trial."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import recbole_mscgrec
from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.parsing import parse_values, settings_beside_names
from recbole_mscgrec.data.checks import check_data
from recbole_mscgrec.data.download import with_data
from recbole_mscgrec.data.train_rows import fingerprint_of_files
from recbole_mscgrec.plugin.evaluation import check_test_metrics
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tuning import search_space
from recbole_mscgrec.tuning.search_space import Parameter

# Settings of every trial, unless the command line overrides them.
DEFAULTS = {"show_progress": False}
# A trial is not tested, and a search resumes by itself.
_RESERVED = {
    "result_file": "train with best.yaml afterwards, and set it there",
    "per_user_file": "train with best.yaml afterwards, and set it there",
    "resume": "repeat the command without it, which continues the search",
    "model_file": "a search trains its models",
}
_N_TRIALS, _WARMUP = 20, 5


class Plan(NamedTuple):
    """A search: what is trained, what is searched, and how long."""

    model: str
    dataset: str
    fixed: dict[str, Any]  # settings that all trials share
    space: list[Parameter]
    folder: Path
    n_trials: int
    timeout: float | None  # seconds
    warmup: int  # epochs before a trial may be pruned
    seed: int
    metric: str
    bigger: bool  # whether larger values of the metric are better
    fingerprint: dict[str, Any]  # values that all trials of a study must share

    def settings(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """The settings of a trial for which the study has drawn these values."""
        return {**self.fixed, **{p.name: p.value(drawn[p.name]) for p in self.space}}


def plan(options: argparse.Namespace, settings: dict[str, Any]) -> Plan:
    """The plan for a command line. Downloads the data if they do not exist.

    Raises:
        UserError: an option, the file, a setting, one end of a range or one choice is invalid.
    """
    space = search_space.read(options.tune)
    common: dict[str, Any] = DEFAULTS | settings_beside_names(options.config_files)
    chosen = parse_values(settings)
    for key, instead in _RESERVED.items():
        if key in common | chosen:
            raise UserError(f"{key} cannot be set for a search: {instead}.")
    for parameter in space:
        if parameter.name in chosen:
            raise UserError(
                f"{parameter.name} is searched in {options.tune} and set to "
                f"{chosen[parameter.name]!r} on the command line: leave one of them out."
            )
    names = {parameter.name for parameter in space}
    fixed = {key: value for key, value in (common | chosen).items() if key not in names}
    config = _checked(options.model, options.dataset, fixed, space)
    name = f"{options.model}-{options.dataset}-{Path(options.tune).stem}"
    return Plan(
        options.model,
        options.dataset,
        fixed,
        space,
        Path(options.tune_dir or Path(config["checkpoint_dir"], "tune", name)),
        _N_TRIALS if options.tune_trials is None else options.tune_trials,
        options.tune_timeout,
        _WARMUP if options.tune_warmup is None else options.tune_warmup,
        config["seed"],
        config["valid_metric"].lower(),
        config["valid_metric_bigger"],
        _fingerprint(config, space),
    )


# --- checks ---------------------------------------------------------------------------------------


def _checked(model: str, dataset: str, fixed: dict[str, Any], space: list[Parameter]) -> Config:
    """Check both ends of every range and every choice. Returns the Config of the fixed settings
    with the first value of each parameter."""
    first = {parameter.name: parameter.ends()[0] for parameter in space}
    config: Config = with_data(partial(Config, model, dataset, typed={**fixed, **first}))
    check_data(config)
    check_test_metrics(config)
    for parameter in space:
        _check_searched(parameter.name, config)
        for value in parameter.ends()[1:]:
            Config(model, dataset, typed={**fixed, **first, parameter.name: value})
    if config["eval_step"] < 1:
        raise UserError(
            "eval_step (0) turns validation off, and a search chooses by it: set eval_step to 1."
        )
    return config


def _check_searched(name: str, config: Config) -> None:
    """Raise UserError for a setting whose values cannot be compared on validation."""
    if name not in config.training_keys:
        raise UserError(
            f"{name} cannot be searched: it does not affect the validation of {config['model']}."
        )
    if name in run_id.DEFINES_VALIDATION:
        raise UserError(
            f"{name} cannot be searched: trials with different values of it are validated on "
            "different data or by different measures, so they cannot be compared. Set it for all "
            "trials."
        )


# --- fingerprint ----------------------------------------------------------------------------------


def _fingerprint(config: Config, space: list[Parameter]) -> dict[str, Any]:
    """What all trials of a study share, as plain values: a search continues only if it is equal."""
    names = {parameter.name for parameter in space}
    settings = {k: v for k, v in config.names_the_run.items() if k not in names}
    return {
        "version": recbole_mscgrec.__version__,
        "model": config["model"],
        "dataset": config["dataset"],
        **{f"setting {key}": value for key, value in sorted(settings.items())},
        **{f"search of {parameter.name}": repr(parameter) for parameter in space},
        "searched": ", ".join(sorted(names)),
        "content of the data": fingerprint_of_files(config),
    }
