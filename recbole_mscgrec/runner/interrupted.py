"""Reads the checkpoint of an interrupted training, and checks it before any part is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mscgrec.data.train_rows import check_same_rows
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.storage import checkpoint, digest, matching, schema
from recbole_mscgrec.storage.errors import UserError

_KEY = "resume"
_START_AGAIN = "leave --resume out to start again"


def read(last: Path, trainer: Any) -> dict[str, Any]:
    """The content of the checkpoint `last`, checked against this trainer and its `train_rows`.

    Raises:
        UserError: the file is damaged or holds another training; or the train rows, the texts,
            images or given features, or the codes have changed since.
    """
    state = checkpoint.load(last, trainer.device, schema.INTERRUPTED_TRAINING, _KEY)
    check_same_rows(_KEY, last, state.get("train_rows") or {}, trainer.train_rows)
    _check_same_codes(last, state, trainer.model)
    if wrong := _misfit(state, trainer):
        raise UserError(f"{_KEY} ({last}) does not fit this training: {wrong}; {_START_AGAIN}.")
    best = Path(trainer.saved_model_file)
    if best.is_file():
        checkpoint.load(best, key=_KEY)
    elif state["best_valid_result"]:
        raise UserError(
            f"{_KEY}: the best model so far, {best}, is missing: restore it beside {last.name}, or "
            f"{_START_AGAIN}."
        )
    return state


def codes_of(model: Any) -> dict[str, Any] | None:
    """The fingerprints of a model's item codes, of their inputs, and of the items that have a
    learned vector; None for a model without codes.

    The checkpoint of an epoch keeps only these: the codes do not change and can be large, above all
    with `history_vectors`, and are stored in the cache and with the best model.
    """
    codes = model.other_parameter().get("code_state")
    if not codes:
        return None
    items = codes["learned"]
    learned = None if items is None else digest.digest_of(items)[:20]
    return {"table": _short(codes["table"]), "inputs": codes["inputs"], "learned": learned}


def _check_same_codes(last: Path, state: dict[str, Any], model: Any) -> None:
    """Raise UserError if the weights were trained with other item codes, or with codes from other
    texts, images or given features."""
    ours, theirs = codes_of(model), state.get("codes")
    if ours is None:
        return
    if theirs is None:  # up to version 0.2: the codes themselves
        whole = (state.get("other_parameter") or {}).get("code_state")
        schema.check(whole, schema.CODES, last, "a checkpoint with item codes")
        assert whole is not None
        theirs = {"table": _short(whole["table"]), "inputs": whole.get("inputs") or {}}
    now, before = ours["inputs"], theirs["inputs"]
    pairs = {f"the {name} input": (before[name], now.get(name)) for name in before}
    pairs["the item codes"] = theirs["table"], ours["table"]
    pairs["the choice of the items with a learned vector"] = theirs.get("learned"), ours["learned"]
    for what, (old, new) in pairs.items():
        if old != new:
            raise UserError(
                f"{_KEY} ({last}): {what} had the fingerprint {old}, but now has {new}: the data "
                f"have changed since. Use the data of that training, or {_START_AGAIN}."
            )


def _short(table: dict[str, Any]) -> str:
    table = CodeTable.from_plain(table).to_plain()  # older files hold the same codes as int64
    return digest.digest_of(table)[:20]


def _misfit(state: dict[str, Any], trainer: Any) -> str:
    """Why the weights, the optimizer or their moving average do not fit; '' if they do."""
    model = trainer.config["model"]
    if state["config"]["model"] != model:
        return f"it holds {state['config']['model']}, not {model}"
    wrong = matching.unlike(state["state_dict"], trainer.model.state_dict(), "state_dict")
    wrong = wrong or matching.unlike_optimizer(state["optimizer"], trainer.optimizer)
    if wrong or not hasattr(trainer, "training_state"):
        return wrong
    given = (state.get("training") or {}).get("average")
    shapes = [average.shape for average in trainer.average]
    if given is None or [average.shape for average in given] != shapes:
        return "its moving average of the weights is missing, or has other sizes"
    return ""
