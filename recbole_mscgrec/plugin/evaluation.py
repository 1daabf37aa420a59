"""Evaluation of ranked lists: the beam's items go to RecBole's Evaluator, without a dense score
matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.register import metric_information, metric_types
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.storage.errors import UserError

_FROM_LIST = {
    "rec.items",
    "rec.topk",
    "data.num_items",
    "data.num_users",
    "data.count_items",
    "data.count_users",
}


class RankedListCollector(Collector):
    """RecBole's Collector for full ranking, for item ids (B, W) instead of scores (B, N).

    Item 0, which fills lists that are too short, is never a hit. With sampled candidates the scores
    are dense, and RecBole's own method collects them.
    """

    def eval_batch_collect(
        self,
        scores_tensor: torch.Tensor,
        interaction: Any,
        positive_u: torch.Tensor,
        positive_i: torch.Tensor,
    ) -> None:
        """Collect one batch of item ids (B, W), or of scores (B, N) if the tensor holds floats."""
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


class KeepingEvaluator(Evaluator):
    """RecBole's Evaluator that also keeps the data of its last evaluation as `collected`."""

    collected: Any = None

    def evaluate(self, dataobject: Any) -> Any:
        """RecBole's method; it stores the data in `collected`."""
        self.collected = dataobject
        return super().evaluate(dataobject)


def check_evaluation(settings: MSCGRecSettings) -> None:
    """Raise UserError if a beam cannot provide what the metrics need."""
    beam_size, longest = settings.decoding.beam_size, max(settings.evaluation.topk)
    if beam_size < longest:
        raise UserError(
            f"beam_size ({beam_size}) must be at least max(topk) ({longest}): "
            "raise beam_size or lower topk."
        )
    if "full" not in settings.evaluation.modes:
        return
    for name in settings.evaluation.metrics:
        needs = set(metric_information[name.lower()]) - _FROM_LIST
        if needs:
            raise UserError(
                f"metrics: {name} needs {', '.join(sorted(needs))} of all items, but a beam ranks "
                "only the items it finds: leave it out, or evaluate with sampled candidates "
                "(mode: uni100)."
            )


def check_test_metrics(config: Any) -> None:
    """Raise UserError if `test_metrics` names something that is not a metric of ranked lists."""
    known = sorted(n for n, kind in metric_types.items() if kind == EvaluatorType.RANKING)
    names = config["test_metrics"]
    if isinstance(names, str) or any(str(name).lower() not in known for name in names):
        raise UserError(f"test_metrics ({names}) must be a list of some of {', '.join(known)}.")


@contextmanager
def for_testing(trainer: Trainer, train_data: Any) -> Iterator[KeepingEvaluator]:
    """Within this block the trainer, of any model, measures `metrics` and `test_metrics`. Yields
    the evaluator."""
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
