"""Loading the weights of a saved model: `model_file` and `initial_model`."""

from __future__ import annotations

from typing import Any

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.removed import of_a_saved_run
from recbole_mscgrec.config.run_id import MEASURED, cannot_change, check_same_data
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.storage.errors import UserError

# Folders and machine of the run: also taken from the checkpoint, unless given now.
_PLACES = "data_path cache_dir checkpoint_dir use_gpu show_progress text_batch_size".split()


def begin_at(config: Any, network: Any) -> None:
    """Load the weights of `initial_model` into the network. Weights that are initialized to zero
    (`learned_vectors`) may be absent.

    Raises:
        UserError: see `check_fits`; or the model was trained on other data or another split and
            may have seen the test targets of this run.
    """
    file = config["initial_model"]
    at_zero: frozenset[str] = getattr(network, "zero_at_first", frozenset)()
    state = check_fits(config, "initial_model", network, at_zero)
    check_same_data("initial_model", file, state["config"], config.final_config_dict)
    network.load_state_dict(state["state_dict"], strict=False)  # check_fits has checked the others
    network.load_other_parameter(state.get("other_parameter"))


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
    here = {name: tensor.shape for name, tensor in ours.items()}
    there = {name: tensor.shape for name, tensor in state["state_dict"].items()}
    if here == there or {k: v for k, v in here.items() if k not in may_lack} == there:
        return state
    differ = [
        key
        for key in sorted(config.training_keys)
        if key in trained and checkpoint.to_plain(config[key]) != trained[key]
    ]
    if differ:
        used = " ".join(f"--{key}={trained[key]}" for key in differ)
        raise UserError(
            f"{key_name} ({config[key_name]}) holds weights of other sizes than these settings "
            f"give. It was trained with {used}."
        )
    strange = sorted(name for name, _ in set(there.items()) ^ set(here.items()))[0]
    raise UserError(
        f"{key_name} ({config[key_name]}) was saved by another version of this package, whose "
        f"network differs in {strange}: use it with that version, or train again."
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
            "initial_model starts a training and model_file replaces one: leave one of them out."
        )
    state = checkpoint.load(file, required=("config", "state_dict"))
    trained = state["config"] | state.get("settings", {})
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
    trained = of_a_saved_run(trained, file)
    keys = config.training_keys
    refused = [key for key in given if cannot_change(key, given[key], trained.get(key), keys)]
    if refused:
        told = ", ".join(f"{key} {trained.get(key)!r} (not {given[key]!r})" for key in refused)
        raise UserError(
            f"model_file ({file}) was trained with {told}, which cannot change after training: "
            f"leave {', '.join(refused)} out."
        )
    chosen = state.get("chosen", {})
    saved = of_a_saved_run(state.get("settings") or chosen, file)
    typed = {key: value for key, value in saved.items() if key in keys or key in MEASURED}
    if (typed.get("train_neg_sample_args") or {}).get("distribution") == "none":
        del typed["train_neg_sample_args"]  # RecBole's value for no negative sampling
    typed |= {key: chosen[key] for key in _PLACES if key in chosen}
    used_up = {"initial_model": None, "resume": False, "model_file": file}
    evaluated = Config(config["model"], dataset, typed={**typed, **given, **used_up})
    evaluated.chosen_keys = frozenset(chosen) | frozenset(given)
    return evaluated
