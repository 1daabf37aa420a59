"""Fixes for RecBole's training with mixed precision and on a GPU: autocast in a chosen type,
gradients clipped after they are unscaled, and steps in which the host does not wait for the GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from recbole_mscgrec.storage.checkpoint import restore_optimizer

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def apply() -> None:
    """Apply the fixes below; safe to call again."""
    from recbole.data.interaction import Interaction

    if getattr(Interaction.to, "goes_on", False):
        return
    _send_without_waiting()
    _train_without_waiting()
    _train_in_chosen_precision()
    _resume_without_waiting()


def _send_without_waiting() -> None:
    """`Interaction.to` copies each column from pageable memory, so the host waits until the GPU has
    finished all its work. Copies from pinned memory do not wait."""
    from recbole.data.interaction import Interaction

    original = Interaction.to

    def to(self: Any, device: Any, selected_field: Any = None) -> Any:
        """A copy with all or the selected columns on `device`; to a GPU through pinned memory."""
        if torch.device(device).type != "cuda":
            return original(self, device, selected_field)
        chosen = {selected_field} if isinstance(selected_field, str) else selected_field
        columns = {
            name: column if chosen is not None and name not in chosen else _sent(column, device)
            for name, column in self.interaction.items()
        }
        return Interaction(columns)

    Interaction.to = to
    Interaction.to.goes_on = True


def _sent(column: torch.Tensor, device: Any) -> torch.Tensor:
    if column.device.type != "cpu":
        return column.to(device)
    return column.pin_memory().to(device, non_blocking=True)


def _train_without_waiting() -> None:
    """`Trainer._train_epoch` reads the loss in each step, so the host waits for the GPU. Here the
    losses are read at the end of the epoch."""
    from recbole.trainer import Trainer

    original = Trainer._train_epoch

    def _train_epoch(
        self: Any, train_data: Any, epoch_idx: int, loss_func: Any = None, **kwargs: Any
    ) -> Any:
        if self.device.type == "cpu":
            return original(self, train_data, epoch_idx, loss_func, **kwargs)
        with _without_nan_check(self):
            kept = _kept_on_device(loss_func or self.model.calculate_loss)
            return _read(original(self, train_data, epoch_idx, kept, **kwargs))

    Trainer._train_epoch = _train_epoch


def _train_in_chosen_precision() -> None:
    """RecBole's loops with mixed precision know one autocast type per device, and clip gradients
    that are still scaled."""
    from recbole.trainer.trainer import NCLTrainer, Trainer

    for kind in (Trainer, NCLTrainer):
        kind._train_epoch = _precise(kind._train_epoch)


def _precise(train_epoch: Callable[..., Any]) -> Callable[..., Any]:
    def _train_epoch(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _autocast_in(self.device.type, self.config["amp_dtype"]), _clipped_unscaled(self):
            return train_epoch(self, *args, **kwargs)

    return _train_epoch


@contextmanager
def _autocast_in(device: str, name: str | None) -> Iterator[None]:
    """Within this block autocast uses the type that `amp_dtype` names, if any."""
    if name is None:
        yield
        return
    before = torch.get_autocast_dtype(device)
    torch.set_autocast_dtype(device, _AMP[name])
    try:
        yield
    finally:
        torch.set_autocast_dtype(device, before)


@contextmanager
def _clipped_unscaled(trainer: Any) -> Iterator[None]:
    """Within this block gradients are clipped by a hook of the optimizer, which runs after torch
    has unscaled them. Clipped before, they would be too small by the factor of the loss scale."""
    clip = trainer.clip_grad_norm
    if not (trainer.enable_scaler and clip):
        yield
        return

    def clip_gradients(*_: Any) -> None:
        clip_grad_norm_(trainer.model.parameters(), **clip)

    hook = trainer.optimizer.register_step_pre_hook(clip_gradients)
    trainer.clip_grad_norm = None
    try:
        yield
    finally:
        hook.remove()
        trainer.clip_grad_norm = clip


@contextmanager
def _without_nan_check(trainer: Any) -> Iterator[None]:
    """Within this block the trainer does not check losses for NaN; `_read` does so instead."""
    trainer._check_nan = lambda loss: None
    try:
        yield
    finally:
        del trainer._check_nan  # restores the class's method


def _kept_on_device(loss_func: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same losses, but `item()`, whose results RecBole sums up, returns a tensor on the
    device."""

    def loss_of(interaction: Any) -> Any:
        losses = loss_func(interaction)
        for loss in losses if isinstance(losses, tuple) else (losses,):
            loss.item = _returning(loss.detach())
        return losses

    return loss_of


def _returning(value: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: value


def _read(total: Any) -> Any:
    """The losses of an epoch as numbers. Raises ValueError for NaN, as RecBole does."""
    if total is None:
        return None
    losses = tuple(float(part) for part in (total if isinstance(total, tuple) else (total,)))
    if any(map(math.isnan, losses)):
        raise ValueError("Training loss is nan")
    return losses if isinstance(total, tuple) else losses[0]


def _resume_without_waiting() -> None:
    """`Trainer.resume_checkpoint` loads the optimizer's step counters onto the GPU, so that every
    step would wait for them. Here they stay on the CPU."""
    from recbole.trainer import Trainer

    original = Trainer.resume_checkpoint

    def resume_checkpoint(self: Any, resume_file: Any) -> None:
        original(self, resume_file)
        restore_optimizer(self.optimizer, self.optimizer.state_dict())

    Trainer.resume_checkpoint = resume_checkpoint
