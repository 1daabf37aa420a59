"""Weights of a saved model in a network of today: `model_file` and `initial_model`."""

from __future__ import annotations

from typing import Any

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage import checkpoint


def begin_at(config: Any, network: Any) -> None:
    """Give the network the weights that `initial_model` holds. It may lack those that begin at zero
    (`learned_vectors`): without them it is the same model.

    Raises:
        ValueError: see `check_fits`; or `model_file` beside it.
    """
    if config["model_file"]:
        raise ValueError(
            "initial_model begins a training and model_file replaces one: leave one of them out."
        )
    at_zero = getattr(network, "zero_at_first", frozenset)()
    state = check_fits(config, "initial_model", network, at_zero)
    network.load_state_dict(state["state_dict"], strict=False)  # what is not at zero was checked
    network.load_other_parameter(state.get("other_parameter"))


def check_fits(
    config: Any, key: str, network: Any, may_lack: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The checkpoint that the setting `key` names; all of the weights `may_lack` may be absent.

    Raises:
        ValueError: it holds another model, or weights of other sizes than the network's.
    """
    state, ours = checkpoint.load(config[key], key=key), network.state_dict()
    trained = state["config"]
    if trained.get("model") != config["model"]:
        raise ValueError(
            f"{key} ({config[key]}) holds {trained.get('model')}, not {config['model']}: add "
            f"--model={trained.get('model')}."
        )
    here = {name: tensor.shape for name, tensor in ours.items()}
    there = {name: tensor.shape for name, tensor in state["state_dict"].items()}
    if here == there or {k: v for k, v in here.items() if k not in may_lack} == there:
        return state
    settings = checkpoint.to_plain(config.final_config_dict)
    differ = [
        k for k in trained if k in settings and settings[k] != trained[k] and run_id.is_setting(k)
    ]
    if differ:
        used = " ".join(f"--{k}={trained[k]}" for k in differ)
        raise ValueError(
            f"{key} ({config[key]}) holds weights of other sizes than these settings give. It was "
            f"trained with {used}."
        )
    strange = sorted(name for name, _ in set(there.items()) ^ set(here.items()))[0]
    raise ValueError(
        f"{key} ({config[key]}) was saved by another version of this package, whose network "
        f"differs in {strange}: use it with that version, or train again."
    )
