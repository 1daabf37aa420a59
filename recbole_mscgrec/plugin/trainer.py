"""RecBole's Trainer with evaluation by beam search and a moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any

import torch
from recbole.trainer import Trainer
from torch.nn.utils.rnn import pad_sequence

from recbole_mscgrec.plugin import ensemble_weights
from recbole_mscgrec.plugin.evaluation import RankedListCollector
from recbole_mscgrec.semantic_ids.item_filter import ExcludedItems
from recbole_mscgrec.storage import processes


class MSCGRecTrainer(Trainer):
    """RecBole's Trainer with evaluation by beam search and a moving average of the weights.

    With `ema_decay` > 0 an exponential moving average of the weights is updated after every
    optimizer step. The averaged weights are validated, saved as the best model, and tested.
    """

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.eval_collector = RankedListCollector(config)
        self.ema_decay = model.settings.training.ema_decay
        self.remarking = False
        self.ahead: list[torch.Tensor] | None = None  # set while the models' weights are fitted
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.weights] if self.ema_decay else []
        if self.average:
            self.optimizer.register_step_post_hook(self._follow)

    @torch.no_grad()
    def _follow(self, *_: Any) -> None:
        torch._foreach_lerp_(self.average, self.weights, 1 - self.ema_decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within this block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.weights, self.average, strict=False):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict]:
        with self._averaged():
            return super()._valid_epoch(valid_data, show_progress)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        with self._averaged():
            super()._save_checkpoint(epoch, verbose, **kwargs)

    def training_state(self) -> dict[str, Any]:
        """The state that a resumed training needs in addition to RecBole's own."""
        return {"average": [a.clone() for a in self.average]}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `training_state`."""
        with torch.no_grad():
            for average, saved in zip(self.average, state["average"], strict=True):
                average.copy_(saved)

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        """RecBole's method, which also collects the data for `remarks`; this takes time, so it is
        done only for the best model."""
        self.remarking, self.level_sums = load_best_model, list[torch.Tensor]()
        result = super().evaluate(eval_data, load_best_model, *args, **kwargs)
        self.level_sums = processes.in_turn(self.level_sums)
        return result

    def remarks(self) -> dict[str, Any]:
        """Further results of the last evaluation of the best model.

        level_share: the share of each code level in the log-likelihood of the targets; the
            collision level, if there is one, is the last.
        rescore_weights: the weight of every model, with `rescore_model`.
        """
        sums = sum(self.level_sums, torch.zeros(self.model.network.n_levels, dtype=torch.double))
        total = float(sums.sum())
        shares = sums / total if total else sums
        remarks: dict[str, Any] = {"level_share": [round(float(s), 4) for s in shares]}
        if self.model.ensemble is not None:
            weights = self.model.ensemble.named_weights(self.config["model"])
            remarks["rescore_weights"] = weights
        return remarks

    def fit_weights(self, valid_data: Any, show_progress: bool = False) -> bool:
        """With `rescore_weight: fit`, choose the weights of the models by the NDCG@10 of the best
        model and the others on the validation data. Returns whether there was something to fit."""
        ensemble = self.model.ensemble
        if ensemble is None or not ensemble.to_fit:
            return False
        self.ahead = []
        self.evaluate(valid_data, show_progress=show_progress)
        ahead, self.ahead = processes.in_turn(self.ahead), None
        found = None
        if processes.is_first():
            rows, n_rows = torch.cat(ahead), len(valid_data.dataset)
            weights, score = ensemble_weights.fit_weights(rows, n_rows)
            equal = ensemble_weights.ndcg_at_10(rows, ensemble.weights, n_rows)
            alone = ensemble_weights.ndcg_at_10(rows, torch.eye(len(weights))[0], n_rows)
            getLogger().info(
                f"rescore_weight: fit on {n_rows} rows of validation, NDCG@10 {score:.4f} (equal "
                f"weights {equal:.4f}, {self.config['model']} alone {alone:.4f})"
            )
            found = weights.tolist()
        ensemble.weights = torch.tensor(processes.broadcast(found), device=self.device)
        told = ", ".join(
            f"{k} {v}" for k, v in ensemble.named_weights(self.config["model"]).items()
        )
        getLogger().info(f"rescore_weight: {told}")
        return True

    def _full_sort_batch_eval(self, batched_data: tuple) -> tuple:
        interaction, history_index, positive_u, positive_i = batched_data
        restriction = None
        if history_index is not None and len(history_index[1]):
            row, item = history_index
            of_rows = item.split(torch.bincount(row, minlength=len(interaction)).tolist())
            seen = pad_sequence(of_rows, batch_first=True)
            restriction = ExcludedItems(self.model.network.tree, seen)
        interaction = interaction.to(self.device)
        positive_u, positive_i = positive_u.to(self.device), positive_i.to(self.device)
        beams = self.model.search(interaction, restriction=restriction)
        if self.model.ensemble is not None:
            parts = self.model.ensemble.parts(beams, interaction)
            if self.ahead is not None:
                stacked = torch.stack(parts, dim=2)[positive_u]
                ahead = ensemble_weights.advantages(stacked, beams.items[positive_u], positive_i)
                self.ahead.append(ahead.cpu())
            beams = self.model.ensemble.ranked(beams, parts)
        if self.remarking:
            levels = self.model.level_log_probs(interaction, positive_u, positive_i)
            self.level_sums.append(levels.sum(1).double().cpu())
        return interaction, beams.items, positive_u, positive_i
