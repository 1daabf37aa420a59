"""One trial: a training without a test. It logs into a file and reports every validation."""

from __future__ import annotations

import gc
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.tuning import study as studies
from recbole_mscgrec.tuning.plan import Plan

# Attributes of a finished trial in the study, in addition to those in study.py.
RESULT = "best_valid_result"
CHOSEN = "chosen"  # the settings that were given: searched and fixed ones


def run(study: optuna.Study, trial: Trial, plan: Plan) -> FrozenTrial:
    """Train a trial and report its result to the study; a failed trial is reported as failed, with
    the reason.

    Raises:
        KeyboardInterrupt: after the trial was queued again; its last finished epoch is kept.
    """
    folder = folder_of(plan, trial.user_attrs[studies.BEGUN_AS])
    try:
        with _logged_in(plan.folder / "logs" / f"{trial.number}.log"):
            value = _train(trial, plan, folder)
    except optuna.TrialPruned:
        return study.tell(trial, state=TrialState.PRUNED)
    except KeyboardInterrupt:
        trial.set_user_attr(studies.REASON, studies.STOPPED)
        studies.retry(study, trial.number)
        raise
    except Exception as error:  # one combination of settings may fail; the search continues
        trial.set_user_attr(studies.REASON, _reason(error))
        return study.tell(trial, state=TrialState.FAIL)
    else:
        return study.tell(trial, value)
    finally:
        if torch.cuda.is_initialized():  # a shortage of GPU memory does not trigger Python's gc
            gc.collect()
            torch.cuda.empty_cache()


def folder_of(plan: Plan, begun_as: int) -> Path:
    """The folder of a trial's checkpoints, the same for all attempts at it."""
    return plan.folder / "trials" / str(begun_as)


def keep_best(study: optuna.Study, plan: Plan) -> None:
    """Remove the checkpoints of finished trials, except those of the best one."""
    trials = study.get_trials(deepcopy=False)
    begun = {studies.begun_as(t) for t in trials if not t.state.is_finished()}
    if any(t.state == TrialState.COMPLETE for t in trials):
        begun.add(studies.begun_as(study.best_trial))
    for trial in trials:
        if trial.state.is_finished() and studies.begun_as(trial) not in begun:
            shutil.rmtree(folder_of(plan, studies.begun_as(trial)), ignore_errors=True)


def _train(trial: Trial, plan: Plan, folder: Path) -> float:
    """The valid_metric of the best epoch. Raises optuna.TrialPruned."""
    settings = plan.settings(trial.params)
    settings |= {"checkpoint_dir": str(folder), "log_dir": str(folder)}
    settings["resume"] = any(folder.glob("*.last.pth"))
    known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values.keys()

    def report(epoch: int, value: float) -> None:
        if epoch not in known:
            trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    result = quick_start.train(plan.model, plan.dataset, settings, report)
    value = result["best_valid_score"]
    if value is None or not math.isfinite(value):
        raise UserError(f"the validation {plan.metric} is not a number ({value}).")
    trial.set_user_attr(RESULT, result["best_valid_result"])
    trial.set_user_attr(CHOSEN, result["chosen"])
    for last in folder.glob("*.last.pth"):  # needed only to resume
        last.unlink()
    return float(value)


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error).removesuffix(" --debug shows where.")  # the trial's log shows it
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def _logged_in(file: Path) -> Iterator[None]:
    """Within this block all log output goes into `file`, and so does the traceback of an exception
    that ends the block."""
    file.parent.mkdir(parents=True, exist_ok=True)
    root = getLogger()
    before, level = root.handlers[:], root.level
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    except optuna.TrialPruned:
        root.info("Pruned.")
        raise
    except Exception:
        root.exception("Failed.")
        raise
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        handler.close()
