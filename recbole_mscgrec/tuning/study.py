"""The study: an SQLite file of trials that several processes share and that a later command
continues.

Which trial comes next is decided under a lock, so the number of trials is exact. Each process holds
a lock on its trial, which the operating system releases when the process ends, however it ends: a
running trial whose lock is free belongs to a process that was killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_mscgrec.storage import files, lock
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tuning.plan import Plan
from recbole_mscgrec.tuning.search_space import Choice, Parameter

_NAME = "tune"
_SECONDS_TO_WAIT = 120  # for the database while another process writes it
_STARTUP_TRIALS = 5  # complete trials before any trial is pruned
_MOST_ATTEMPTS = 3  # at a trial whose process is killed each time
_MOST_REPETITIONS = 50  # the search ends if this many draws in a row repeat finished trials
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)

# Attributes of a trial in the study.
REASON = "reason"  # why it failed; a trial of a killed process has none
STOPPED = "stopped"  # the reason after Ctrl-C
ATTEMPT = "attempt"  # 1, or more if it was interrupted
BEGUN_AS = "begun_as"  # the number of its first attempt, which names its folder
SAME_AS = "same_as"  # the trial with the same settings whose result it takes


class Next(NamedTuple):
    """A trial for this process to run, and the lock that it holds meanwhile."""

    trial: Trial
    held: ExitStack


def open_study(plan: Plan) -> optuna.Study:
    """The study in the folder of the plan; a new one if there is none.

    Raises:
        UserError: it was made with another fingerprint (the message names the differences), it is
            damaged, or the folder cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    files.check_folder(plan.folder, "tune_dir")
    database = plan.folder / "study.db"
    with _deciding(plan):
        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{database.resolve()}",
                engine_kwargs={"connect_args": {"timeout": _SECONDS_TO_WAIT}},
            )
            study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize" if plan.bigger else "minimize",
                load_if_exists=True,
                sampler=_SampledByNumber(plan.seed),
                pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, plan.warmup),
            )
        except Exception as error:  # sqlalchemy's, alembic's or optuna's own
            raise UserError(
                f"{database} is not a study ({' '.join(str(error).split())[:120]}): move it away, "
                "or choose another --tune_dir."
            ) from error
        kept = study.user_attrs.get("fingerprint")
        if kept is None and not study.trials:
            study.set_user_attr("fingerprint", plan.fingerprint)
        elif kept != plan.fingerprint:
            raise UserError(_difference(kept or {}, plan))
    return study


def _difference(kept: dict[str, Any], plan: Plan) -> str:
    now, shown = plan.fingerprint, []
    for key in sorted(kept.keys() | now.keys()):
        if kept.get(key) != now.get(key):
            shown.append(f"{key} was {kept.get(key)} and is {now.get(key)}")
    return (
        f"The study in {plan.folder} was made with other settings, so its trials cannot be "
        f"compared: {'; '.join(shown)}. Choose another --tune_dir, or repeat that study's command."
    )


# --- which trial comes next -----------------------------------------------------------------------


def next_trial(study: optuna.Study, plan: Plan, since: datetime) -> Next | None:
    """The next trial, which this process has to run and to report; None if none is left.

    Trials of killed processes are queued again first. A draw with the settings of a finished trial,
    or of one that failed after `since`, takes that trial's result and does not count.
    """
    with _deciding(plan):
        _queue_again(study, plan)
        for _ in range(_MOST_REPETITIONS):
            if n_counted(study, running=True) >= plan.n_trials or _exhausted(study, plan, since):
                return None
            trial = study.ask({p.name: distribution(p) for p in plan.space})
            trial.set_user_attr(BEGUN_AS, trial.user_attrs.get(BEGUN_AS, trial.number))
            same = _same(study, trial, since)
            if same is None:
                held = ExitStack()
                held.enter_context(_held(plan, trial.number))
                return Next(trial, held)
            _tell_as(study, trial, same)
    return None


def n_counted(study: optuna.Study, running: bool = False) -> int:
    """The number of finished trials that count; with `running`, also of running ones. Failed trials
    and those that took the result of another do not count."""
    states = (*_COUNTED, TrialState.RUNNING) if running else _COUNTED
    trials = study.get_trials(deepcopy=False, states=states)
    return sum(SAME_AS not in trial.user_attrs for trial in trials)


def begun_as(trial: FrozenTrial) -> int:
    """The number of the first attempt at a trial."""
    return int(trial.user_attrs.get(BEGUN_AS, trial.number))


def retry(study: optuna.Study, number: int) -> None:
    """End a running trial as failed and queue its settings again, with the values that it has
    reported. After three attempts it is not queued again."""
    study.tell(number, state=TrialState.FAIL)
    trial = study.get_trials(deepcopy=False)[number]
    attempt = trial.user_attrs.get(ATTEMPT, 1)
    if attempt < _MOST_ATTEMPTS or trial.user_attrs.get(REASON) == STOPPED:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={ATTEMPT: attempt + 1, BEGUN_AS: begun_as(trial)},
            )
        )


def _held(plan: Plan, number: int) -> AbstractContextManager[None]:
    """The lock that the process of a running trial holds."""
    return lock.claim(plan.folder / "trials" / str(number), f"runs trial {number} of {plan.folder}")


@contextmanager
def _deciding(plan: Plan) -> Iterator[None]:
    """Within this block no other process begins a trial of the study."""
    with lock.claim(plan.folder / "study", f"chooses a trial of {plan.folder}", wait=True):
        yield


def _queue_again(study: optuna.Study, plan: Plan) -> None:
    """Queue the trials of processes that were killed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with suppress(lock.Claimed), _held(plan, trial.number):
            retry(study, trial.number)


def _tried(study: optuna.Study, since: datetime) -> list[FrozenTrial]:
    """Finished trials, except those that failed before `since`: the cause may have been fixed."""
    trials = study.get_trials(deepcopy=False, states=(*_COUNTED, TrialState.FAIL))
    return [t for t in trials if t.state != TrialState.FAIL or _has_failed(t, since)]


def _has_failed(trial: FrozenTrial, since: datetime) -> bool:
    stopped = trial.user_attrs.get(REASON, STOPPED) == STOPPED
    return not stopped and (trial.datetime_complete or since) >= since


def _same(study: optuna.Study, trial: Trial, since: datetime) -> FrozenTrial | None:
    return next((t for t in _tried(study, since) if t.params == trial.params), None)


def _exhausted(study: optuna.Study, plan: Plan, since: datetime) -> bool:
    """Whether each combination of a finite search space was tried or is running."""
    size = math.prod(parameter.size() for parameter in plan.space)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    there = {json.dumps(t.params, sort_keys=True) for t in [*_tried(study, since), *running]}
    return len(there) >= size


def _tell_as(study: optuna.Study, trial: Trial, same: FrozenTrial) -> None:
    """Give a trial the result of another one with the same settings."""
    trial.set_user_attr(SAME_AS, same.user_attrs.get(SAME_AS, same.number))
    for step, value in same.intermediate_values.items():
        trial.report(value, step)
    if same.state == TrialState.COMPLETE:
        study.tell(trial, same.value)
    else:
        study.tell(trial, state=same.state)


# --- drawing --------------------------------------------------------------------------------------


def distribution(parameter: Parameter) -> BaseDistribution:
    """The distribution from which Optuna draws a parameter."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.labels)
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.whole:
        return IntDistribution(int(low), int(high), step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=step)


class _SampledByNumber(BaseSampler):
    """TPE whose random numbers follow from the seed and the number of trials drawn before. So a
    continued search draws what it would have drawn without the stop, and processes that share a
    study draw different trials."""

    def __init__(self, seed: int) -> None:
        self._seed, self._number, self._sampler = seed, -1, TPESampler()

    def _of(self, study: optuna.Study, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            before = study.get_trials(deepcopy=False)[: trial.number]
            n_drawn = sum(t.user_attrs.get(ATTEMPT, 1) == 1 for t in before)
            text = f"{self._seed} {n_drawn}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            self._number = trial.number
            self._sampler = TPESampler(seed=seed, constant_liar=True)
        return self._sampler

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE's."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE's."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As TPE's."""
        return self._of(study, trial).sample_independent(
            study, trial, param_name, param_distribution
        )
