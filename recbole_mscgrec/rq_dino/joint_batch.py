"""RQ-DINO in several processes. Each one computes a part of the images of every batch; losses,
targets and codebooks are those of the whole batch, so the training equals that of one process."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import timm.layers
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
Network = TypeVar("Network", bound=nn.Module)
_RANK_SEEDS = 1_000_000_000_039  # difference between the seeds of two processes


class Part:
    """The images, in a batch of n, that this process computes. In a single process, all of them.

    Attributes:
        n: number of images in the batch.
        rows: slice of the images of this process.
        share: their share of the batch, from 0 to 1.
    """

    def __init__(self, n: int) -> None:
        rows = processes.part(n)
        self.n, self.rows, self.share = n, slice(rows.start, rows.stop), len(rows) / n

    def draw(self, n: int) -> Tensor:
        """Uniform random numbers (b,) for these images, equal to those that a single process would
        draw for them."""
        return torch.rand(self.n)[self.rows]

    def joint(self, views: Tensor) -> Tensor:
        """The rows (V n, ...) of the whole batch, view by view. `views` (V b, ...) are the rows of
        this process; gradients flow to these only."""
        if processes.count() == 1:
            return views
        n_own = self.rows.stop - self.rows.start
        own = views.view(-1, n_own, *views.shape[1:]).transpose(0, 1)  # (b, V, ...)
        whole = own.new_empty(self.n, *own.shape[1:])
        whole[self.rows] = own.detach()
        processes.complete(whole)
        if own.requires_grad:
            whole = torch.cat([whole[: self.rows.start], own, whole[self.rows.stop :]])
        return whole.transpose(0, 1).flatten(0, 1)


def check_parts(n_images: int, n_batches: int) -> None:
    """Raise UserError if a batch has fewer images than there are processes."""
    if n_images // n_batches < processes.count():
        raise UserError(
            f"{processes.count()} processes share the images of every batch, but {n_images} images "
            f"in {n_batches} batches give {n_images // n_batches}: raise image_batch_size, or "
            "start fewer processes."
        )


def draw_apart() -> None:
    """Make random numbers differ between processes from here on, such as those of stochastic
    depth."""
    if processes.rank():
        torch.manual_seed(torch.initial_seed() + _RANK_SEEDS * processes.rank())


def with_batch_norm(network: Network, name: str, device: torch.device) -> Network:
    """The network, with BatchNorm statistics taken over all processes. `name` is the backbone's
    name, for the error.

    Raises:
        UserError: the network has BatchNorm, and several processes train it on CPUs.
    """
    kinds = torch.nn.modules.batchnorm._BatchNorm
    if processes.count() == 1 or not any(isinstance(m, kinds) for m in network.modules()):
        return network
    if device.type != "cuda":
        raise UserError(
            f"image_backbone {name!r} uses BatchNorm, which torch computes over several processes "
            "on GPUs only: choose a backbone without it, such as vit_tiny_patch16_224; or make the "
            "codes in one process (--model=MSCGRecTokenizer), which this command then reuses."
        )
    group = processes.gradient_group(device)
    return timm.layers.convert_sync_batchnorm(network, group)  # type: ignore[no-any-return]


def with_gradients(network: nn.Module, example: Tensor) -> nn.Module:
    """The network, with gradients averaged over all processes (DistributedDataParallel). `example`
    is an example input."""
    if processes.count() == 1:
        return network
    device, kind = example.device, cast(Any, DistributedDataParallel)
    buffers = [name for name, _ in network.named_buffers()]  # the codebooks, see DinoTraining._step
    kind._set_params_and_buffers_to_ignore_for_model(network, buffers + _unused(network, example))
    return DistributedDataParallel(
        network,
        device_ids=[device.index] if device.type == "cuda" else None,
        process_group=processes.gradient_group(device),
    )


def _unused(network: nn.Module, example: Tensor) -> list[str]:
    """The names of the parameters that get no gradient, such as a class token that is not used."""
    network.eval()(example)[0].sum().backward()
    names = [name for name, weight in network.named_parameters() if weight.grad is None]
    network.zero_grad()
    return names
