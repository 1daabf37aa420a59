"""Reranking: the beam's items are also scored by a second, saved model (`rescore_model`).

The score of an item is the weighted mean of both models' log-probabilities, that is, a product of
experts: one that sees only the codes of an item, and one, such as SASRec, with a vector per item.
Not part of the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.utils import ModelType, get_model

from recbole_mscgrec.config.config import Settings, check_model_name
from recbole_mscgrec.config.run_id import check_same_data
from recbole_mscgrec.data.train_rows import check_same_rows, train_rows
from recbole_mscgrec.network.beam_search import Beams
from recbole_mscgrec.plugin.checkpoints import check_other_parts
from recbole_mscgrec.storage import checkpoint, matching, schema
from recbole_mscgrec.storage.errors import UserError, one_line

Tensor = torch.Tensor
_KEY = "rescore_model"
_SETTINGS = {
    "loss_type": schema.Maybe(str),
    "MAX_ITEM_LIST_LENGTH": schema.Maybe(int),
    "eval_args": dict,
}


class SecondModel:
    """A saved sequential model of RecBole that was trained with cross-entropy over all items.

    Args:
        file: the checkpoint.
        weight: weight of its log-probabilities in the mean, from 0 to 1.
        device: where to run it.
        dataset: the train split of this run.

    Raises:
        UserError: the file does not exist, or its model is not sequential, gives no
            log-probabilities, or was trained on other data, another split or shorter histories.
    """

    def __init__(self, file: str, weight: float, device: torch.device, dataset: Any) -> None:
        self.weight = weight
        state = checkpoint.load(file, device, key=_KEY)
        schema.check(state["config"], _SETTINGS, f"{_KEY} ({file})", "a saved sequential model")
        trained = Settings(state["config"], device=device)
        check_model_name(trained["model"])
        if str(trained["model"]).startswith("MSCGRec"):
            raise UserError(
                f"{_KEY} ({file}) holds {trained['model']}: a second model must score all items at "
                "once, such as TiledGRU4Rec or TiledSASRec."
            )
        kind = get_model(trained["model"])
        if kind.type != ModelType.SEQUENTIAL or trained["loss_type"] != "CE":
            raise UserError(
                f"{_KEY} ({file}) holds {trained['model']}: it must be a sequential model "
                "trained with loss_type CE, such as TiledGRU4Rec, so that its scores are "
                "log-probabilities."
            )
        ours = checkpoint.to_plain(dataset.config.final_config_dict)
        name, length = "MAX_ITEM_LIST_LENGTH", ours["MAX_ITEM_LIST_LENGTH"]
        if (trained[name] or 0) < length:
            raise UserError(
                f"{_KEY} ({file}) was trained with {name}={trained[name]} and cannot read "
                f"histories of {length}: train it with {name}={length}."
            )
        check_same_data(_KEY, file, trained, ours)
        self.n_items = dataset.item_num
        try:
            self.model = kind(trained, dataset).to(device).eval().requires_grad_(False)
        except Exception as error:  # of settings in the file, which may hold anything
            raise UserError(
                f"{_KEY} ({file}): {trained['model']} cannot be made with the settings in this "
                f"file ({type(error).__name__}: {one_line(error)})."
            ) from error
        if wrong := matching.unlike(state["state_dict"], self.model.state_dict(), "state_dict"):
            raise UserError(
                f"{_KEY} ({file}) does not fit the {self.n_items - 1} items of this data set "
                f"({wrong}): use one that was trained on the same data, load_col and filters."
            )
        check_same_rows(_KEY, file, state.get("train_rows") or {}, train_rows(dataset))
        self.model.load_state_dict(state["state_dict"])
        check_other_parts(state, self.model, f"{_KEY} ({file})")
        self.model.load_other_parameter(state.get("other_parameter"))

    @torch.no_grad()
    def log_probs(self, interaction: Any) -> Tensor:
        """Log-probability of every item as the next one of each history: (B, N); -inf for
        padding."""
        scores = self.model.full_sort_predict(interaction)
        n_rows = len(interaction[self.model.ITEM_SEQ_LEN])
        scores = scores.view(n_rows, -1)[:, : self.n_items].float()
        scores[:, 0] = -torch.inf
        return scores.log_softmax(dim=1)

    def mix(self, log_probs: Tensor, others: Tensor) -> Tensor:
        """The weighted mean of two tensors of log-probabilities; -inf where either is -inf."""
        mixed = torch.lerp(log_probs, others, self.weight)
        return mixed.masked_fill(log_probs.isinf() | others.isinf(), -torch.inf)

    def rerank(self, beams: Beams, interaction: Any) -> Beams:
        """The same items, sorted by the mean of both models' log-probabilities, best first."""
        others = self.log_probs(interaction).gather(1, beams.items)
        scores, order = self.mix(beams.log_probs, others).sort(dim=1, descending=True, stable=True)
        return Beams(beams.items.gather(1, order), scores)
