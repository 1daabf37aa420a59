"""Several processes that train one model together: their ranks, and what they tell each other.

torchrun starts them, on one or on several machines, and sets RANK, WORLD_SIZE and LOCAL_RANK; so
does `--nproc` (runner/launch.py). Within `together` they form a group of torch.distributed. In a
single process there is no group, and each function here does what is right for one.

The group works on CPUs (gloo), also if the model is on GPUs: it carries plain values, such as the
ranked lists of an evaluation. Gradients on GPUs have a group of their own (`gradient_group`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from recbole_mscgrec.storage import digest
from recbole_mscgrec.storage.errors import UserError

Result = TypeVar("Result")
# The tokenizers may train for days while the other processes wait for their result. A process that
# ends is noticed at once, because its connections close.
_TIMEOUT = timedelta(days=7)
_FIRST = 0  # the rank that writes files and speaks for all
_REPORTED = "reported"


class _Held:
    """What this process has of the processes that train together."""

    store: Any = None
    n_groups = 0
    gradients: dict[str, Any] = {}


def n_started() -> int:
    """The number of processes that torchrun started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def n_started_here() -> int:
    """The number of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or n_started())


def count() -> int:
    """The number of processes in the group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The place of this process in the group, from 0 on; 0 without one."""
    return dist.get_rank() if dist.is_initialized() else _FIRST


def local_rank() -> int:
    """The place of this process among those of its machine; it chooses the GPU."""
    return int(os.environ.get("LOCAL_RANK") or 0) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks for all."""
    return rank() == _FIRST


@contextmanager
def together() -> Iterator[None]:
    """Within this block the processes that torchrun started form a group.

    Raises:
        UserError: the variables that torchrun sets are incomplete.
    """
    if n_started() == 1 or dist.is_initialized():
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {n_started()}, but {', '.join(missing)} is not set: start the "
            "processes with torchrun or --nproc, which set all of them, or unset WORLD_SIZE."
        )
    if _Held.store is None:
        _Held.store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=10)))
    _Held.n_groups += 1  # a script may run several models, one after the other
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(f"group {_Held.n_groups} of start {_start()}", _Held.store),
        rank=int(os.environ["RANK"]),
        world_size=n_started(),
        timeout=_TIMEOUT,
    )
    yield
    # Not after an error: the others may be waiting for this process, and learn of its end when it
    # exits, after it has said why.
    _Held.gradients.clear()
    dist.destroy_process_group()


def _start() -> str:
    """torchrun can start failed processes again, with the same store."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def reports_first() -> bool:
    """Whether this process is the first of all to report its end. The error of the process that
    failed is then told once, and not those that it causes in the others."""
    if _Held.store is None:
        return True
    mine = f"rank {os.environ.get('RANK')}"
    try:
        first = _Held.store.compare_set(f"{_REPORTED} {_start()}", "", mine)
    except Exception:  # the process that holds the store has ended
        return False
    return bool(first.decode() == mine)


def lost_another(error: Exception) -> bool:
    """Whether the error says that another process of the group has ended."""
    return count() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def device(gpus: str | None) -> torch.device:
    """The device of this process: the GPU of its place on this machine, or the CPU if there is no
    GPU. `gpus` are numbers of GPUs, such as '0,2', or None for all that are visible.

    Raises:
        UserError: fewer GPUs than processes on this machine.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == "" or n_gpus == 0:
        return torch.device("cpu")
    if local_rank() >= n_gpus:
        raise UserError(
            f"{n_started_here()} processes were started on a machine with {n_gpus} GPUs to use: "
            "start at most one per GPU, name more in gpu_id, or set use_gpu=False."
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


def gradient_group(device: torch.device) -> Any:
    """The group in which gradients are averaged: nccl on GPUs, gloo on CPUs. All processes must
    call this at the same point."""
    kind = device.type
    if kind not in _Held.gradients:
        backend = "nccl" if kind == "cuda" else "gloo"
        _Held.gradients[kind] = dist.new_group(backend=backend, timeout=_TIMEOUT)
    return _Held.gradients[kind]


# --- messages: all processes must call these at the same point ------------------------------------


def wait() -> None:
    """Wait until all processes are here, for example until the first one has written a file."""
    if count() > 1:
        dist.barrier()


def broadcast(value: Result) -> Result:
    """The value that the first process has."""
    if count() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=_FIRST)
    return held[0]


def once(make: Callable[[], Result]) -> Result:
    """The result of `make`, which only the first process calls."""
    if count() == 1:
        return make()
    return broadcast(make() if is_first() else None)  # type: ignore[return-value]


@contextmanager
def one_after_the_other() -> Iterator[None]:
    """This block is run by the first process, then by the first one of every other machine, then by
    the rest: what one writes, such as a downloaded file, the next ones find."""
    mine = 0 if is_first() else 1 if local_rank() == 0 else 2
    for _ in range(mine):
        wait()
    yield
    for _ in range(mine, 2):
        wait()


def everyones(value: Result) -> list[Result]:
    """The values of all processes, by rank."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def in_turn(mine: list[Result]) -> list[Result]:
    """All parts of what was dealt out to the processes one by one (see `dealt`), in their order.
    Only the first process gets them; the others get an empty list."""
    if count() == 1:
        return mine
    hands: list[Any] | None = [None] * count() if is_first() else None
    dist.gather_object(mine, hands, dst=_FIRST)
    if hands is None:
        return []
    turns = range(max(map(len, hands)))
    return [hand[turn] for turn in turns for hand in hands if turn < len(hand)]


def dealt(place: int) -> bool:
    """Whether the part at this place, from 0 on, is dealt out to this process."""
    return place % count() == rank()


def sum_of(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the device of the tensor."""
    if count() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total, group=gradient_group(values.device))
    return total


def check_same(what: str, value: Any) -> None:
    """Raise UserError if a plain value differs between the processes."""
    digests = everyones(digest.digest_of(value))
    others = [place for place, found in enumerate(digests) if found != digests[_FIRST]]
    if others:
        raise UserError(
            f"{what} of process {others[0]} and of process {_FIRST} differ: give all machines the "
            "same command, the same versions of this package and its requirements, and the same "
            "files."
        )
