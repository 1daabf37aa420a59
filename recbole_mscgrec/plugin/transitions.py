"""The transitions of a run of MSCGRec: those of a saved model, or those of its own train split."""

from __future__ import annotations

from typing import Any

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.transitions.counts import count_transitions
from recbole_mscgrec.transitions.model import TransitionModel, Transitions


def transition_model(
    found: Transitions | None, settings: MSCGRecSettings
) -> TransitionModel | None:
    """The model of transitions that came with the codes; None without `transition_weight`.

    Raises:
        UserError: the saved model `model_file` has none.
    """
    weight = settings.decoding.transition_weight
    if not weight:
        return None
    if found is None:
        raise UserError(
            f"transition_weight ({weight}) needs transitions, and {settings.run.model_file} holds "
            "none, since it was trained with transition_weight 0: leave it out."
        )
    return TransitionModel(found)


def counted_again(
    old: Transitions | None, settings: MSCGRecSettings, train: Any
) -> Transitions | None:
    """The transitions counted on the train split `train`, with the text vectors of `old`, those of
    the saved model from which a training starts."""
    if not settings.decoding.transition_weight:
        return None
    return count_transitions(train, old.text if old else None)
