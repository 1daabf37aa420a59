"""RecBole's training in several processes: its hooks (`single_spec`, DistributedDataParallel), with
the batches and losses of a single process.

RecBole supports only GPUs, pads the processes' parts with repeated rows, and gives every part the
same weight. Evaluation is in joint_evaluation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from recbole_mscgrec.storage import checkpoint, processes
from recbole_mscgrec.storage.errors import UserError


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    from recbole.trainer import Trainer

    if getattr(Trainer._train_epoch, "weighs_targets", False):
        return
    _average_gradients_on_any_device()
    _share_batches()
    _weigh_losses()


@contextmanager
def _as_one(config: Any) -> Iterator[None]:
    """Within this block RecBole treats this process as the only one."""
    config["single_spec"] = True
    try:
        yield
    finally:
        config["single_spec"] = False


# --- gradients ------------------------------------------------------------------------------------


def _average_gradients_on_any_device() -> None:
    """`AbstractTrainer.__init__` wraps the model for one GPU per process and broadcasts its
    buffers, some of which are integers that cannot be sent. Here buffers are not broadcast: they
    follow from the settings, except those of BatchNorm, which is synchronized on GPUs and refused
    on CPUs."""
    from recbole.trainer.trainer import AbstractTrainer

    original = AbstractTrainer.__init__

    def __init__(self: Any, config: Any, model: Any) -> None:
        if config["single_spec"]:
            original(self, config, model)
            return
        with _as_one(config):
            original(self, config, model)
        group = processes.gradient_group(config["device"])
        self.model = _with_joint_batch_norm(model, group, config)
        if any(weight.requires_grad for weight in model.parameters()):
            on_gpu = config["device"].type == "cuda"
            buffers = [name for name, _ in self.model.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, buffers)
            self.distributed_model = DistributedDataParallel(
                self.model,
                device_ids=[config["device"].index] if on_gpu else None,
                process_group=group,
            )

    AbstractTrainer.__init__ = __init__


def _with_joint_batch_norm(model: Any, group: Any, config: Any) -> Any:
    kinds = torch.nn.modules.batchnorm._BatchNorm
    if not any(isinstance(module, kinds) for module in model.modules()):
        return model
    if config["device"].type != "cuda":
        raise UserError(
            f"{config['model']} uses BatchNorm, which torch can compute over several processes "
            "only on GPUs: start one process, without torchrun and --nproc."
        )
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model, group)


# --- batches --------------------------------------------------------------------------------------


def _share_batches() -> None:
    """`AbstractDataLoader` repeats rows until each process has equally many. Here the loaders make
    the batches of a single process, in the same order. In training each process takes its part of
    every batch; in evaluation it takes every n-th batch, so that all scores are those of a single
    process."""
    from recbole.data.dataloader import (
        AbstractDataLoader,
        FullSortEvalDataLoader,
        NegSampleEvalDataLoader,
    )

    original = AbstractDataLoader.__init__

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        if config["single_spec"]:
            original(self, config, *args, **kwargs)
            return
        with _as_one(config):
            original(self, config, *args, **kwargs)
        self.sampler.set_epoch = _same_order
        batches: Any = self.batch_sampler
        if isinstance(self, FullSortEvalDataLoader):
            batches = _Dealt(batches)
        elif not isinstance(self, NegSampleEvalDataLoader):
            batches = _Part(batches, config)
        self.__dict__["batch_sampler"] = batches  # DataLoader refuses to set it as an attribute

    AbstractDataLoader.__init__ = __init__
    every_batch, n_batches = NegSampleEvalDataLoader.__iter__, NegSampleEvalDataLoader.__len__

    def __iter__(self: Any) -> Iterator[Any]:
        """Draw the candidates of all batches in every process, with the first one's random
        numbers."""
        if self.config["single_spec"]:
            yield from every_batch(self)
            return
        own = checkpoint.random_state()
        checkpoint.set_random_state(processes.broadcast(own))
        for place, batch in enumerate(every_batch(self)):
            if processes.dealt(place):
                yield batch
        if not processes.is_first():
            checkpoint.set_random_state(own)

    def __len__(self: Any) -> int:
        n = n_batches(self)
        return n if self.config["single_spec"] else -(-n // processes.count())

    NegSampleEvalDataLoader.__iter__ = __iter__
    NegSampleEvalDataLoader.__len__ = __len__


def _same_order(epoch: int) -> None:
    """Replaces `DistributedSampler.set_epoch`: the generators of all processes agree anyway."""


class _Dealt:
    """Every n-th batch."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (batch for n, batch in enumerate(self.batches) if processes.dealt(n))

    def __len__(self) -> int:
        """The first process's number, in all processes: RecBole skips loaders without batches."""
        return -(-len(self.batches) // processes.count())


class _Part:
    """This process's part of every batch. A last batch with fewer rows than processes is merged
    into the one before.

    Raises:
        UserError: a batch, or the whole train split, has fewer rows than there are processes.
    """

    def __init__(self, batches: Any, config: Any) -> None:
        self.batches, self.n_rows, self.size = batches, len(batches.sampler), batches.batch_size
        n = processes.count()
        for what, rows in (("train split", self.n_rows), ("train_batch_size", self.size)):
            if rows < n:
                raise UserError(
                    f"{n} processes share the rows of every batch of {config['model']}, but "
                    f"{what} is only {rows}: start fewer processes, or raise train_batch_size."
                )

    def __iter__(self) -> Iterator[list[int]]:
        n, rank, held = processes.count(), processes.rank(), list[int]()
        for batch in self.batches:
            if held and len(batch) >= n:
                yield held[rank::n]
                held = []
            held = held + batch
        yield held[rank::n]

    def __len__(self) -> int:
        whole, rest = divmod(self.n_rows, self.size)
        return whole + (rest >= processes.count())


# --- losses ---------------------------------------------------------------------------------------


def _weigh_losses() -> None:
    """DistributedDataParallel takes the mean of the processes' gradients, but their parts of a
    batch have different numbers of targets. Each loss is weighted so that this mean is the gradient
    of the mean loss over all targets of the joint batch. The loss of an epoch is that of the joint
    batches, too."""
    from recbole.trainer import Trainer

    original = Trainer._train_epoch

    def _train_epoch(
        self: Any, train_data: Any, epoch_idx: int, loss_func: Any = None, **kwargs: Any
    ) -> Any:
        if self.config["single_spec"]:
            return original(self, train_data, epoch_idx, loss_func, **kwargs)
        loss_func = loss_func or self.model.calculate_loss
        weighed = weighed_loss(self.model, loss_func, self.device)
        loss = original(self, train_data, epoch_idx, weighed, **kwargs)
        parts = loss if isinstance(loss, tuple) else (loss,)
        sums = processes.sum_of(torch.tensor(parts, dtype=torch.double, device=self.device))
        means = tuple((sums / processes.count()).tolist())
        return means if isinstance(loss, tuple) else means[0]

    Trainer._train_epoch = _train_epoch
    Trainer._train_epoch.weighs_targets = True


def weighed_loss(
    model: Any, loss_func: Callable[[Any], Any], device: torch.device
) -> Callable[[Any], Any]:
    """A loss whose mean over the processes is the mean over all targets of their joint batch.

    `model.n_targets(interaction)` counts the targets if it exists; otherwise each row is one.
    """

    def weighed(interaction: Any) -> Any:
        losses = loss_func(interaction)
        n = getattr(model, "n_targets", len)(interaction)
        mine = torch.as_tensor(n, dtype=torch.float, device=device)
        weight = processes.count() * mine / processes.sum_of(mine).clamp(min=1)
        if isinstance(losses, tuple):
            return tuple(_times(loss, weight) for loss in losses)
        return _times(losses, weight)

    return weighed


def _times(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The weighted loss. A batch without targets has no mean, and weight 0."""
    return torch.where(weight > 0, loss, torch.zeros_like(loss)) * weight
