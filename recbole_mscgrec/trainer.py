"""Evaluation from ranked lists: beams go to RecBole's Evaluator without a dense score matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.evaluator import Collector
from recbole.evaluator.register import metric_information, metric_types
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType
from torch.nn.utils.rnn import pad_sequence

from recbole_mscgrec.per_user import KeepingEvaluator
from recbole_mscgrec.restriction import ExcludedItems

_FROM_LIST = {
    "rec.items",
    "rec.topk",
    "data.num_items",
    "data.num_users",
    "data.count_items",
    "data.count_users",
}


class RankedListCollector(Collector):
    """RecBole's Collector for full ranking, fed with item ids (B, W) instead of scores (B, N).

    A place without an item (0) is never a hit. With sampled candidates the scores are dense and
    RecBole's own collection applies.
    """

    def eval_batch_collect(
        self,
        scores_tensor: torch.Tensor,
        interaction: Any,
        positive_u: torch.Tensor,
        positive_i: torch.Tensor,
    ) -> None:
        if scores_tensor.is_floating_point():
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        items = scores_tensor[:, : max(self.topk)]  # (B, k)
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", items)
        if self.register.need("rec.topk"):
            user, item = positive_u.to(items.device), positive_i.to(items.device)
            hits = torch.zeros_like(items, dtype=torch.int)
            # A user may have several positives; each is compared with that user's list.
            hits.index_add_(0, user, (items[user] == item.unsqueeze(1)).int())
            n_positive = torch.bincount(user, minlength=len(items)).int().unsqueeze(1)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, n_positive], dim=1))


class MSCGRecTrainer(Trainer):
    """RecBole's Trainer with evaluation by beam search and an average of the weights.

    With `ema_decay` > 0 an exponential moving average of the weights follows every optimizer step;
    it is what is validated, saved as the best model and tested.
    """

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.eval_collector = RankedListCollector(config)
        self.ema_decay = config["ema_decay"]
        self.remarking = False
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.weights] if self.ema_decay else []
        if self.average:
            self.optimizer.register_step_post_hook(self._follow)

    @torch.no_grad()
    def _follow(self, *_: Any) -> None:
        torch._foreach_lerp_(self.average, self.weights, 1 - self.ema_decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within this block the model holds the average of its weights."""
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
        """What a resumed training needs besides RecBole's own state."""
        return {"average": [a.clone() for a in self.average]}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Undo `training_state`."""
        with torch.no_grad():
            for average, saved in zip(self.average, state["average"], strict=True):
                average.copy_(saved)

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        """RecBole's evaluate; notes what `remarks` tells: of the best model only, as it costs
        time."""
        self.remarking = load_best_model
        self.n_results = self.n_invalid = 0
        self.level_sum = torch.zeros(self.model.network.n_levels, dtype=torch.double)
        return super().evaluate(eval_data, load_best_model, *args, **kwargs)

    def remarks(self) -> dict[str, Any]:
        """Of the last evaluation of the best model.

        level_share: the part of the targets' log-likelihood that each level of the code carries;
        the collision level, where there is one, is the last. Where beams may leave the catalogue,
        invalid_share: the part of their results that is no item.
        """
        total = float(self.level_sum.sum())
        shares = self.level_sum / total if total else self.level_sum
        remarks: dict[str, Any] = {"level_share": [round(float(s), 4) for s in shares]}
        if self.n_results:
            remarks["invalid_share"] = self.n_invalid / self.n_results
        return remarks

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
        beams = self.model.recommend(interaction, restriction=restriction)
        if self.remarking:
            levels = self.model.level_log_probs(interaction, positive_u, positive_i)
            self.level_sum += levels.sum(1).double().cpu()
        if beams.n_invalid is not None:
            self.n_results += beams.items.numel()
            self.n_invalid += int(beams.n_invalid.sum())
        return interaction, beams.items, positive_u, positive_i


def check_evaluation(config: Any) -> None:
    """Raise ValueError where a beam cannot give what the evaluation asks for."""
    beam_size, longest = config["beam_size"], max(config["topk"])
    if beam_size < longest:
        raise ValueError(
            f"beam_size ({beam_size}) must be at least max(topk) ({longest}): "
            "raise beam_size or lower topk."
        )
    if "full" not in config["eval_args"]["mode"].values():
        return
    for name in [*config["metrics"], *config["test_metrics"]]:
        needs = set(metric_information[name.lower()]) - _FROM_LIST
        if needs:
            raise ValueError(
                f"metrics: {name} needs {', '.join(sorted(needs))} of all items, and a beam ranks "
                "only its own: leave it out, or evaluate with sampled candidates (mode: uni100)."
            )


def check_test_metrics(config: Any) -> None:
    """Raise ValueError for a name in `test_metrics` that is no metric of ranked lists."""
    known = sorted(n for n, kind in metric_types.items() if kind == EvaluatorType.RANKING)
    names = config["test_metrics"]
    if isinstance(names, str) or any(str(name).lower() not in known for name in names):
        raise ValueError(f"test_metrics ({names}) must be a list of some of {', '.join(known)}.")


@contextmanager
def for_testing(trainer: Trainer, train_data: Any) -> Iterator[KeepingEvaluator]:
    """Within this block any trainer measures `metrics` and `test_metrics`; yields the evaluator."""
    config = trainer.config
    metrics, collector, evaluator = config["metrics"], trainer.eval_collector, trainer.evaluator
    known = {name.lower() for name in metrics}
    config["metrics"] = [*metrics, *(n for n in config["test_metrics"] if n.lower() not in known)]
    try:
        trainer.eval_collector = type(collector)(config)
        trainer.eval_collector.data_collect(train_data)
        trainer.evaluator = KeepingEvaluator(config)
        yield trainer.evaluator
    finally:
        config["metrics"] = metrics
        trainer.eval_collector, trainer.evaluator = collector, evaluator
