"""One run: data, model, training, evaluation, result file; and a saved model with its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any, NamedTuple

from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed, set_color

from recbole_mscgrec.compat.catalogue import cut_lists
from recbole_mscgrec.compat.logs import start_logger, tensorboard_in
from recbole_mscgrec.config import run_id
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.refusals import check_wandb, ends_told_to_the_user, told_to_the_user
from recbole_mscgrec.config.validation import FIT
from recbole_mscgrec.data.checks import check_data, check_memory, check_validated
from recbole_mscgrec.data.download import with_data
from recbole_mscgrec.data.train_rows import check_same_rows, fingerprint_of_files, train_rows
from recbole_mscgrec.plugin.evaluation import KeepingEvaluator, check_test_metrics, for_testing
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.fit import fit, seed_of_this_process
from recbole_mscgrec.runner.lock import alone
from recbole_mscgrec.runner.places import check_log_dir, check_places
from recbole_mscgrec.runner.result import peak_memory_mb, result_of
from recbole_mscgrec.runner.saved_model import (
    begin_at,
    check_fits,
    config_of_saved,
    warn_of_other_rows,
)
from recbole_mscgrec.runner.stops import model_kept, nothing_trained, stages_kept, stopped
from recbole_mscgrec.runner.together import check_same_model, check_together
from recbole_mscgrec.semantic_ids.precision import matmul_precision
from recbole_mscgrec.storage import checkpoint, digest, files, processes
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.pipeline import timed


def run(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train (or load) and evaluate one model of RecBole or of this project.

    Returns:
        The content of the result file: model, dataset, seed, settings (all that the result depends
        on), chosen (those given by the user), preset (those that followed from the data), made_by
        (version, commit), best_valid_result, test_result, seconds (stage -> s), n_processes,
        peak_memory_mb (of the first process), peak_memory_mb_after (stage -> MB),
        peak_gpu_memory_mb, n_parameters, versions, code_health.
        With `eval_drop_modality` also test_without (modality -> metrics); for MSCGRec also the
        result of `MSCGRecTrainer.remarks` for the test.

    Processes started by torchrun train one model together, and all return the result.
    """
    with ends_told_to_the_user(model), processes.together():
        config = _config(model, dataset, config_file_list, config_dict)
        with _begun(config):
            return _run(config)


def train(
    model: str,
    dataset: str,
    typed: dict[str, Any],
    after_validation: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train one model without testing it, for a search that looks at validation only.

    Args:
        typed: settings; strings among the values are not parsed.
        after_validation: called with the epoch (from 0) and the valid_metric. An exception that it
            raises ends the training.

    Returns:
        As `run`, with None as test_result.
    """
    with ends_told_to_the_user(model):
        config = _config(model, dataset, typed=typed)
        with _begun(config):
            done = _train(config, after_validation)
            return _result(config, done, None)


@contextmanager
def _begun(config: Config) -> Iterator[None]:
    """Check what a run needs; within this block no other process can train this run."""
    check_wandb(config)
    user_ranks.check_per_user(config)
    check_test_metrics(config)
    check_together(config)
    check_places(config)
    with (
        alone(config),
        matmul_precision(config["matmul_precision"]),
        tensorboard_in(config["log_dir"]),
    ):
        yield


def load_data_and_model(
    model_file: str, config_dict: dict[str, Any] | None = None
) -> tuple[Config, Any, Any, Any, Any, Any]:
    """Load a saved model, ready to predict, and the data that it was trained on.

    Replaces RecBole's function of this name, which cannot be imported with current packages, and
    reads checkpoints without pickles. The settings are in the checkpoint; `config_dict`
    (`data_path`, `gpu_id`, ...) overrides them.

    Returns:
        config, model, dataset, train_data, valid_data, test_data, as RecBole's function.

    Raises:
        UserError: the file is not a checkpoint of this project, the data have other items than
            those of the training, or `rescore_weight` is fit: only a run fits weights.
    """
    state = checkpoint.load(model_file)
    trained = state["config"]
    given = {**(config_dict or {}), "model_file": str(model_file)}
    config = _config(trained["model"], trained["dataset"], None, given)
    if config["rescore_model"] and config["rescore_weight"] == FIT:
        raise UserError(
            f"rescore_weight is {FIT}, but only a run fits weights: give the weights of "
            "rescore_model that its result file holds under rescore_weights, or set rescore_model "
            "to None."
        )
    init_seed(config["seed"], config["reproducibility"])
    dataset, *loaders = _data(config)
    init_seed(config["seed"], config["reproducibility"])
    model = _network(config, loaders[0], warn_of_other_rows)
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    return config, model.eval(), dataset, *loaders


def _config(*settings: Any, **more: Any) -> Config:
    """A Config whose data set has been downloaded, if needed, and checked."""

    def made() -> Config:
        config = Config(*settings, **more)
        return config_of_saved(config) if config["model_file"] else config

    with told_to_the_user():
        config = with_data(made)
        check_log_dir(config)
        start_logger(config)
        check_data(config)
    return config


class _Done(NamedTuple):
    """A trained or loaded model, and what its test needs."""

    trainer: Any
    train_data: Any
    test_data: Any
    best_valid: Any  # the metrics of the best validation
    data: str  # fingerprint of the files that were read
    seconds: dict[str, float]
    memory: dict[str, float]


def _train(config: Config, after_validation: Callable[[int, float], None] | None = None) -> _Done:
    """Read the data, and train the model or load `model_file`."""
    init_seed(config["seed"], config["reproducibility"])
    logger = getLogger()
    logger.info(config)
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    with stopped(nothing_trained), timed(seconds, "data"), told_to_the_user():
        read = fingerprint_of_files(config)
        _, train_data, valid_data, test_data = _data(config)
    check_validated(config, len(valid_data), searches=after_validation is not None)
    memory["data"] = peak_memory_mb()

    init_seed(config["seed"], config["reproducibility"])
    with stopped(lambda: stages_kept(config)), told_to_the_user():
        network = _network(config, train_data, check_same_rows)
    logger.info(network)
    seconds.update(getattr(network, "stage_seconds", {}))
    memory["model"] = peak_memory_mb()
    if config["initial_model"]:
        begin_at(config, network, train_data._dataset)
    check_same_model(network, train_data)
    if not processes.is_first():
        init_seed(seed_of_this_process(config), config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    if config["model_file"]:
        trainer.saved_model_file = config["model_file"]
        trainer.eval_collector.data_collect(train_data)
        _fit_weights(trainer, valid_data, config)
        best_valid = trainer.evaluate(valid_data, show_progress=config["show_progress"])
    else:
        trainer.saved_model_file = str(run_id.path_of(config))
        best_valid = fit(trainer, train_data, valid_data, config, seconds, after_validation)
        memory["train"] = peak_memory_mb()
        if _fit_weights(trainer, valid_data, config):
            best_valid = trainer.evaluate(valid_data, show_progress=config["show_progress"])
    return _Done(trainer, train_data, test_data, best_valid, read, seconds, memory)


def _run(config: Config) -> dict[str, Any]:
    done, logger = _train(config), getLogger()
    trainer, best_file = done.trainer, done.trainer.saved_model_file
    with (
        stopped(lambda: model_kept(config, best_file)),
        timed(done.seconds, "test"),
        for_testing(trainer, done.train_data) as evaluator,
    ):
        test = trainer.evaluate(done.test_data, show_progress=config["show_progress"])
    done.memory["test"] = peak_memory_mb()
    if processes.is_first():
        with stopped(lambda: model_kept(config, best_file)):
            _save_ranks(evaluator, done.test_data, config)

    result = _result(config, done, test)
    result.update(getattr(trainer, "remarks", dict)())
    with stopped(lambda: model_kept(config, best_file)):
        without = _test_without(trainer, done.test_data, config)
    result = processes.broadcast(result | without)
    logger.info(set_color("best valid ", "yellow") + f": {result['best_valid_result']}")
    for name, metrics in without.get("test_without", {}).items():
        logger.info(set_color(f"test without {name}", "yellow") + f": {metrics}")
    logger.info(set_color("test result", "yellow") + f": {result['test_result']}")
    if config["result_file"] and processes.is_first():
        with stopped(lambda: model_kept(config, best_file)):
            files.write_json(config["result_file"], digest.sealed(result))
    return result


def _result(config: Config, done: _Done, test: Any) -> dict[str, Any]:
    return result_of(
        config, done.trainer, done.best_valid, test, done.data, done.seconds, done.memory
    )


def _data(config: Config) -> tuple[Any, Any, Any, Any]:
    """The data set, and the loaders of its train, validation and test splits."""
    data = create_dataset(config)
    getLogger().info(data)
    cut_lists(config, data.item_num - 1, data.user_num - 1)
    check_memory(config, data)
    return data, *data_preparation(config, data)  # which also applies `exclude_seen`


def _network(config: Config, train_data: Any, compare_rows: Callable[..., None]) -> Any:
    """The model on its device. The weights of `model_file` are checked, but not loaded yet, and its
    train rows are compared with those of this run."""
    train, file = train_data._dataset, config["model_file"]
    network = get_model(config["model"])(config, train).to(config["device"])
    if file and network.state_dict():  # MSCGRecTokenizer has no weights
        state = check_fits(config, "model_file", network)
        compare_rows("model_file", file, state.get("train_rows") or {}, train_rows(train))
    return network


def _fit_weights(trainer: Any, valid_data: Any, config: Config) -> bool:
    """Fit the weights of `rescore_model` if the settings ask for it. Returns whether they do."""
    if not hasattr(trainer, "fit_weights"):
        return False
    with stopped(lambda: model_kept(config, trainer.saved_model_file)):
        return bool(trainer.fit_weights(valid_data, show_progress=config["show_progress"]))


def _test_without(trainer: Any, test_data: Any, config: Config) -> dict[str, Any]:
    """The result of a second test without the modality that `eval_drop_modality` names, if any."""
    name = config["eval_drop_modality"]
    if not name or not hasattr(trainer.model, "without_modality"):
        return {}
    with trainer.model.without_modality(name), _logged_as(trainer.wandblogger, f"without_{name}"):
        show = config["show_progress"]
        metrics = trainer.evaluate(test_data, load_best_model=False, show_progress=show)
    return {"test_without": {name: checkpoint.to_plain(metrics)}}


@contextmanager
def _logged_as(logger: Any, head: str) -> Iterator[None]:
    """Within this block evaluations are sent to Weights & Biases as `head/...`, so they do not
    overwrite the test's."""
    log = logger.log_eval_metrics
    logger.log_eval_metrics = lambda metrics, **_: log(metrics, head=head)
    try:
        yield
    finally:
        del logger.log_eval_metrics  # restores the class's method


def _save_ranks(evaluator: KeepingEvaluator, test_data: Any, config: Config) -> None:
    if config["per_user_file"]:
        ranks = user_ranks.ranks_of(evaluator, test_data, config)
        if ranks is not None:
            user_ranks.save(config["per_user_file"], ranks)
