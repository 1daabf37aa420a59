"""RecBole's fit, with a checkpoint after every epoch so that an interrupted training can resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.utils import ModelType, init_seed

from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.train_rows import train_rows
from recbole_mscgrec.plugin import checkpoints
from recbole_mscgrec.runner import interrupted
from recbole_mscgrec.runner.stops import stopped
from recbole_mscgrec.storage import checkpoint, processes
from recbole_mscgrec.storage.errors import UserError


def fit(
    trainer: Any,
    train_data: Any,
    valid_data: Any,
    config: Config,
    seconds: dict[str, float],
    after_validation: Callable[[int, float], None] | None = None,
) -> dict[str, float] | None:
    """Train. With `resume`, continue an interrupted run of these settings after its last finished
    epoch, or start with the first epoch if none was finished.

    Adds the seconds of training to `seconds`, including those of the interrupted run.
    `after_validation` is called with the epoch and the valid_metric, after the epoch is saved.

    Returns:
        The metrics of the best validation.

    Raises:
        UserError: the training loss is not a number, or a file cannot be written (the message says
            how to resume).
        KeyboardInterrupt: after Ctrl-C, with a message that says how to resume.
    """
    began, before = time.perf_counter(), dict(seconds)
    last, best = run_id.last_of(config), trainer.saved_model_file
    trainer.train_rows = train_rows(train_data._dataset)
    codes = interrupted.codes_of(trainer.model)
    begun = config["resume"] and processes.broadcast(last.is_file())
    if config["resume"] and not begun:
        trainer.logger.warning(
            f"resume: no epoch of a training with exactly these settings was finished here ({last} "
            "does not exist), so it starts with the first epoch."
        )
    elif begun:
        before.update(_resume(trainer, train_data, last, config, before))
        seconds.update(before)
        if trainer.cur_step > trainer.stopping_step or trainer.start_epoch >= trainer.epochs:
            trainer.logger.info("This training had already ended; evaluating its best model.")
            trainer.eval_collector.data_collect(train_data)
            return trainer.best_valid_result

    def keep(epoch: int) -> None:
        """Save everything that a training resumed after this epoch needs."""
        seconds["train"] = before.get("train", 0.0) + time.perf_counter() - began
        state = checkpoints.trainer_state(trainer, epoch)
        if codes:
            del state["other_parameter"]["code_state"]
            state["codes"] = codes
        state["best_valid_result"] = checkpoint.to_plain(trainer.best_valid_result)
        state["random"], *others = processes.everyones(checkpoint.random_state(train_data))
        state["random_of_others"] = others
        state["seconds"] = dict(seconds)
        if hasattr(trainer, "training_state"):
            state["training"] = trainer.training_state()
        if processes.is_first():
            checkpoint.save(last, state)

    with stopped(lambda: _how_to_continue(last, trainer.saved_model_file)):
        _train(trainer, train_data, valid_data, config, keep, after_validation)
    if trainer.best_valid_result is None and hasattr(trainer, "pretrain"):
        _keep_pretrained(trainer, best)
    seconds["train"] = before.get("train", 0.0) + time.perf_counter() - began
    return trainer.best_valid_result


def _train(
    trainer: Any,
    train_data: Any,
    valid_data: Any,
    config: Config,
    keep: Callable[[int], None],
    after_validation: Callable[[int, float], None] | None,
) -> None:
    """RecBole's fit, which calls `keep` after every epoch, except for decision trees, which have no
    state between epochs. Raises UserError if the training loss is not a number."""
    show = {"show_progress": config["show_progress"]}
    try:
        if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
            trainer.fit(train_data, valid_data, **show)
        else:
            with every_epoch(trainer, keep, after_validation) as callback:
                trainer.fit(train_data, valid_data, callback_fn=callback, **show)
    except ValueError as error:
        if str(error) != "Training loss is nan":
            raise
        raise UserError(
            f"The training loss of {config['model']} is not a number: lower learning_rate "
            f"({config['learning_rate']}), or the histories are too short for this model."
        ) from error


@contextmanager
def every_epoch(
    trainer: Any,
    keep: Callable[[int], None],
    after_validation: Callable[[int, float], None] | None = None,
) -> Iterator[Callable[[int, float], None]]:
    """Within this block `keep` is called once after every epoch of `trainer.fit`, and then
    `after_validation` if the epoch was validated.

    Yields the callback for RecBole, which RecBole calls only after validations. Epochs that are not
    validated (`eval_step`) are kept when the next one begins, or at the end.
    """
    train_epoch, kept = trainer._train_epoch, trainer.start_epoch - 1

    def callback(epoch: int, valid_score: float | None = None) -> None:
        nonlocal kept
        if epoch > kept:
            keep(epoch)
            kept = epoch
        if after_validation is not None and valid_score is not None:
            after_validation(epoch, valid_score)

    def _train_epoch(train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        callback(epoch_idx - 1)
        return train_epoch(train_data, epoch_idx, *args, **kwargs)

    trainer._train_epoch = _train_epoch
    try:
        yield callback
        callback(max(trainer.train_loss_dict, default=-1))
    finally:
        del trainer._train_epoch  # restores the class's method


def _keep_pretrained(trainer: Any, file: str) -> None:
    """Save the model at the end of a stage without validation. RecBole saves it only in every
    `save_step`-th epoch, and under a name that other settings overwrite."""
    trainer.saved_model_file = file
    trainer._save_checkpoint(trainer.pretrain_epochs - 1)
    trainer.logger.info(
        f"The stage {trainer.config['train_stage']} of {trainer.config['model']} ends here, "
        f"without validation. Start the next one with --train_stage=... --pre_model_path={file}"
    )


def _resume(
    trainer: Any, train_data: Any, last: Path, config: Config, seconds: dict[str, float]
) -> dict[str, float]:
    """Restore the trainer from `last`. Returns the seconds of each stage, summed over both runs."""
    state = interrupted.read(last, trainer)
    best_file = trainer.saved_model_file
    trainer.resume_checkpoint(last)
    trainer.saved_model_file = best_file
    trainer.best_valid_result = state["best_valid_result"]
    _set_random_state(state, train_data, config)
    if "training" in state:
        trainer.load_training_state(state["training"])
    spent = state.get("seconds") or {}
    return {stage: seconds.get(stage, 0.0) + spent[stage] for stage in spent}


def _set_random_state(state: dict[str, Any], train_data: Any, config: Config) -> None:
    """Restore the random state of this process. If the interrupted run had another number of
    processes, all but the first get a state that follows from seed, epoch and rank."""
    states = [state["random"], *(state.get("random_of_others") or [])]
    checkpoint.set_random_state(state["random"], train_data)  # all share the order of rows
    if len(states) == processes.count():
        checkpoint.set_random_state(states[processes.rank()])
    elif not processes.is_first():
        init_seed(seed_of_this_process(config, state["epoch"] + 1), config["reproducibility"])


def seed_of_this_process(config: Config, epoch: int = 0) -> int:
    """The seed for dropout, masks and negatives in one of several processes."""
    return (config["seed"] + processes.rank() + 1_000_003 * epoch) % 2**32


def _how_to_continue(last: Path, best: str) -> str:
    if not last.is_file():
        return (
            "Training stopped before its first epoch was finished. Finished stages are kept: "
            "repeat the command to start the training again."
        )
    return (
        f"Training stopped; its last finished epoch is in {last}. Repeat the command with "
        f"--resume=True to continue, or with --model_file={best} to evaluate the best model so far."
    )
