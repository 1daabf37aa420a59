"""Loading the weights of a saved model: `model_file` and `initial_model`."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.removed import ADDED, of_a_saved_run
from recbole_mscgrec.config.run_id import MEASURED, cannot_change, check_same_data
from recbole_mscgrec.data.train_rows import other_rows, train_rows
from recbole_mscgrec.plugin.checkpoints import check_other_parts
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.storage.errors import UserError, one_line

# Settings of folders and machine; they too are taken from the checkpoint, unless given now.
_PLACES = "data_path cache_dir checkpoint_dir use_gpu show_progress text_batch_size".split()


def begin_at(config: Any, network: Any, train: Any) -> None:
    """Load the weights of `initial_model` into the network. Weights that are initialized to zero
    (`learned_items`) may be absent. If it was trained on other rows than the train split `train`, a
    warning says so.

    Raises:
        UserError: see `check_fits`; or the model was trained on other data or another split and
            may have seen the test targets of this run.
    """
    file = config["initial_model"]
    at_zero: frozenset[str] = getattr(network, "zero_at_first", frozenset)()
    state = check_fits(config, "initial_model", network, at_zero)
    check_same_data("initial_model", file, state["config"], config.final_config_dict)
    warn_of_other_rows("initial_model", file, state.get("train_rows") or {}, train_rows(train))
    network.load_state_dict(state["state_dict"], strict=False)  # check_fits has checked the others
    network.load_other_parameter(state.get("other_parameter"))


def warn_of_other_rows(
    key_name: str, file: Any, trained: Mapping[str, str], ours: Mapping[str, str]
) -> None:
    """Warn if a saved model was trained on other rows than this run's (see data.train_rows)."""
    if text := other_rows(trained, ours):
        getLogger().warning(
            f"{key_name} ({file}) was trained on {text}. If the former hold test targets of this "
            "run, its test result is too good."
        )


def check_fits(
    config: Any, key_name: str, network: Any, may_lack: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The checkpoint that the setting `key_name` names. The weights in `may_lack` may be absent.

    Raises:
        UserError: it holds another model, or weights of other sizes.
    """
    state, ours = checkpoint.load(config[key_name], key=key_name), network.state_dict()
    trained = state["config"]
    if trained.get("model") != config["model"]:
        raise UserError(
            f"{key_name} ({config[key_name]}) holds {trained.get('model')}, not "
            f"{config['model']}: add --model={trained.get('model')}."
        )
    check_other_parts(state, network, f"{key_name} ({config[key_name]})")
    here = {name: tensor.shape for name, tensor in ours.items()}
    there = {name: tensor.shape for name, tensor in state["state_dict"].items()}
    kinds = {name: tensor.is_floating_point() for name, tensor in ours.items()}
    for name, tensor in state["state_dict"].items():
        if name in kinds and tensor.is_floating_point() != kinds[name]:
            raise UserError(f"{key_name} ({config[key_name]}): {name} is {tensor.dtype}.")
    if here == there or {k: v for k, v in here.items() if k not in may_lack} == there:
        return state
    trained = of_a_saved_run(trained, str(config[key_name]), state["state_dict"])
    differ = [
        key
        for key in sorted(config.training_keys)
        if key in trained and checkpoint.to_plain(config[key]) != trained[key]
    ]
    if differ:
        used = " ".join(f"--{key}={trained[key]}" for key in differ)
        raise UserError(
            f"{key_name} ({config[key_name]}) holds weights whose sizes do not fit these settings. "
            f"It was trained with {used}."
        )
    strange = sorted(name for name, _ in set(there.items()) ^ set(here.items()))[0]
    raise UserError(
        f"{key_name} ({config[key_name]}) was saved by another version of this package, whose "
        f"network differs in {strange}: use that version, or train again."
    )


def config_of_saved(config: Config) -> Config:
    """The configuration for evaluating the saved model `model_file`: the settings of its training,
    overridden by those given now that may change after training.

    Raises:
        UserError: the file is not a checkpoint, holds another model, or a given setting cannot
            change after training.
    """
    file, given = str(config["model_file"]), config.external_config_dict
    if given.get("initial_model"):
        raise UserError(
            "initial_model is for a training, but model_file replaces it: leave one of them out."
        )
    state = checkpoint.load(file)
    trained = state["config"] | (state.get("settings") or {})
    model, dataset = trained.get("model"), trained.get("dataset")
    if config["model"] not in (model, "MSCGRecTokenizer"):
        raise UserError(
            f"model_file ({file}) holds {model}, not {config['model']}: add --model={model}."
        )
    if config["dataset"] != dataset:
        raise UserError(
            f"model_file ({file}) was trained on {dataset}, not {config['dataset']}: add "
            f"--dataset={dataset}."
        )
    trained = of_a_saved_run(trained, file, state["state_dict"])
    chosen, keys = state.get("chosen") or {}, config.training_keys
    refused = [
        key
        for key in given
        # A setting of the training may be given again, even if the catalogue lowered its value.
        if not (key in chosen and checkpoint.to_plain(given[key]) == chosen[key])
        and cannot_change(key, given[key], trained.get(key), keys)
    ]
    if refused:
        told = ", ".join(f"{key} {trained.get(key)!r} (not {given[key]!r})" for key in refused)
        raise UserError(
            f"model_file ({file}) was trained with {told}, which cannot change after training: "
            f"leave {', '.join(refused)} out."
        )
    saved = of_a_saved_run(state.get("settings") or chosen, file, state["state_dict"])
    saved |= {key: trained[key] for key in ADDED if key in trained}
    typed = {key: value for key, value in saved.items() if key in keys or key in MEASURED}
    sampling = typed.get("train_neg_sample_args")
    if isinstance(sampling, dict) and sampling.get("distribution") == "none":
        del typed["train_neg_sample_args"]  # RecBole's value for no negative sampling
    typed |= {key: chosen[key] for key in _PLACES if key in chosen}
    used_up = {"initial_model": None, "resume": False, "model_file": file}
    try:
        evaluated = Config(config["model"], dataset, typed={**typed, **given, **used_up})
    except UserError as error:
        raise UserError(f"{error} (with the settings in {file})") from error
    except Exception as error:  # the settings in the file may be anything
        raise UserError(
            f"model_file ({file}) holds settings that cannot be used ({type(error).__name__}: "
            f"{one_line(error)}): restore the file from a copy, or train again."
        ) from error
    # Without settings that are only restored, such as a TIME_FIELD of data without times.
    evaluated.chosen_keys = frozenset(chosen) | frozenset(given)
    return evaluated
