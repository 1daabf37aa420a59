"""The results of a study: the table of its trials, and the settings of the best one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from recbole_mscgrec.experiments.markdown import table_of
from recbole_mscgrec.storage import files
from recbole_mscgrec.tuning import study as studies
from recbole_mscgrec.tuning.plan import Plan
from recbole_mscgrec.tuning.trial import CHOSEN, folder_of

_INTERRUPTED = "its process was killed"


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial; None if none is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None


def rows(study: optuna.Study, plan: Plan) -> list[dict[str, str]]:
    """One row per trial: its number, settings, epochs, metric, seconds, state and remark. Trials
    that were stopped and started again are one row; repetitions have none."""
    trials = study.get_trials(deepcopy=False)
    latest = {studies.begun_as(t): t for t in trials if studies.SAME_AS not in t.user_attrs}
    best = best_of(study)
    found = []
    for trial in latest.values():
        attempts = [t for t in trials if studies.begun_as(t) == studies.begun_as(trial)]
        seconds = sum(t.duration.total_seconds() for t in attempts if t.duration)
        values = trial.intermediate_values
        found.append(
            {
                "trial": str(trial.number),
                **{p.name: shown(trial.params.get(p.name, "")) for p in plan.space},
                "epochs run": str(max(values, default=-1) + 1),
                f"valid {plan.metric}": best_value(trial, plan),
                "seconds": f"{seconds:.1f}",
                "state": trial.state.name.lower(),
                "remark": _remark(trial, best),
            }
        )
    return sorted(found, key=lambda row: int(row["trial"]))


def best_value(trial: FrozenTrial, plan: Plan) -> str:
    """The metric of the best epoch so far."""
    values = list(trial.intermediate_values.values())
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        values = [trial.value]
    return f"{(max if plan.bigger else min)(values):.6f}" if values else ""


def shown(value: Any) -> str:
    """A drawn value as text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _remark(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    if best is not None and trial.number == best.number:
        return "best"
    if trial.state == TrialState.FAIL:
        return str(trial.user_attrs.get(studies.REASON, _INTERRUPTED))
    return ""


def table(study: optuna.Study, plan: Plan) -> str:
    """The trials as a Markdown table."""
    found = rows(study, plan)
    return table_of(list(found[0]), [list(row.values()) for row in found]) if found else ""


def write(study: optuna.Study, plan: Plan) -> None:
    """Write trials.csv and best.yaml into the folder of the study."""
    found, best = rows(study, plan), best_of(study)
    if found:
        files.write_csv(plan.folder / "trials.csv", list(found[0]), found)
    if best is not None:
        head = (
            f"# Trial {best.number} of {plan.folder}: valid {plan.metric} {best.value}, the best "
            f"of {studies.n_counted(study)} trials.\n# {command(plan)}\n"
        )
        text = yaml.safe_dump(settings_of(best), sort_keys=True)
        files.write_text(plan.folder / "best.yaml", head + text)


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings that repeat a complete trial: those given for all trials, except the seed, and
    those drawn."""
    return {key: value for key, value in trial.user_attrs[CHOSEN].items() if key != "seed"}


def command(plan: Plan) -> str:
    """The command that trains with the settings of the best trial, and tests."""
    options: dict[str, Any] = {"model": plan.model, "dataset": plan.dataset}
    options |= {key: plan.fixed[key] for key in ("data_path", "seed") if key in plan.fixed}
    options["config_files"] = plan.folder / "best.yaml"
    words = [f"--{key}={value}" for key, value in options.items()]
    return shlex.join(["python", "run_recbole_mscgrec.py", *words])


def model_file(best: FrozenTrial, plan: Plan) -> Path | None:
    """The checkpoint of the best trial's best epoch."""
    found = folder_of(plan, studies.begun_as(best)).glob("*.pth")
    return next((file for file in found if not file.name.endswith(".last.pth")), None)
