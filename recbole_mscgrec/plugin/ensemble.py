"""Reranking: the beam's items are also scored by other, saved models (`rescore_model`).

The score of an item is the weighted mean of all models' log-probabilities, that is, a product of
experts: one that sees only the codes of an item, and others, such as SASRec, with a vector per
item. Not part of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        device: where to run it.
        dataset: the train split of this run.

    Raises:
        UserError: the file does not exist, or its model is not sequential, gives no
            log-probabilities, or was trained on other data, another split or shorter histories.
    """

    def __init__(self, file: str, device: torch.device, dataset: Any) -> None:
        self.file = file
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
        except Exception as error:  # the settings in the file may be anything
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


class Ensemble:
    """This run's model and the saved ones that rank with it.

    Args:
        files: the checkpoints of the others.
        weights: the weights of all models in the mean, this run's first; they sum to 1. None:
            equal until the attribute is set to the weights fitted on validation.
        device: where to run them.
        dataset: the train split of this run.
    """

    def __init__(
        self,
        files: Sequence[str],
        weights: Sequence[float] | None,
        device: torch.device,
        dataset: Any,
    ) -> None:
        self.models = [SecondModel(file, device, dataset) for file in files]
        self.to_fit = weights is None
        n = len(files) + 1
        self.weights = torch.tensor([1 / n] * n if weights is None else weights, device=device)

    def mix(self, parts: Iterable[Tensor]) -> Tensor:
        """The weighted mean of the models' log-probabilities; -inf where any of them is -inf."""
        stacked = torch.stack(list(parts), dim=-1)
        mixed = stacked @ self.weights.to(stacked)
        return mixed.masked_fill(stacked.isinf().any(-1), -torch.inf)

    def others(self, interaction: Any) -> list[Tensor]:
        """The log-probabilities of all items by each of the other models: (B, N)."""
        return [model.log_probs(interaction) for model in self.models]

    def parts(self, beams: Beams, interaction: Any) -> list[Tensor]:
        """The log-probabilities of the beams' items by every model: (B, W)."""
        others = (model.log_probs(interaction).gather(1, beams.items) for model in self.models)
        return [beams.log_probs, *others]

    def rerank(self, beams: Beams, interaction: Any) -> Beams:
        """The same items, sorted by the mean of the models' log-probabilities, best first."""
        return self.ranked(beams, self.parts(beams, interaction))

    def ranked(self, beams: Beams, parts: Sequence[Tensor]) -> Beams:
        """The result of `rerank`, from that of `parts`."""
        scores, order = self.mix(parts).sort(dim=1, descending=True, stable=True)
        return Beams(beams.items.gather(1, order), scores)

    def named_weights(self, own: str) -> dict[str, float]:
        """The weight of this run's model, under the name `own`, and of each file."""
        names = [own, *(model.file for model in self.models)]
        return dict(zip(names, (round(w, 4) for w in self.weights.tolist()), strict=True))
