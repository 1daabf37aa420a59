"""Several processes that train one model together: their ranks, and how they exchange values.

torchrun starts them, on one or several machines, and sets RANK, WORLD_SIZE and LOCAL_RANK; so does
`--nproc` (runner/launch.py). Within `together` they form a group of torch.distributed. In a single
process there is no group, and every function here returns what is right for one process.

The group works on CPUs (gloo), even if the model is on GPUs: it carries plain values, such as
ranked lists. Gradients on GPUs have a group of their own (`gradient_group`). From `wait` on, the
functions below are collective: all processes must call them at the same point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from recbole_mscgrec.storage import digest
from recbole_mscgrec.storage.errors import UserError

Result = TypeVar("Result")
# A stage of the first process may take days. The end of a process is noticed at once, because its
# connections close.
_TIMEOUT = timedelta(days=7)
_FIRST = 0  # the rank that writes files and reports for all


class _Held:
    """The state of this module in this process."""

    store: Any = None
    n_groups = 0
    alone = False  # True in the first process, within `once`
    gradients: dict[str, Any] = {}


def n_started() -> int:
    """The number of processes that torchrun started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def n_started_here() -> int:
    """The number of processes that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or n_started())


def count() -> int:
    """The number of processes in the group; 1 without one, and within `once`."""
    return dist.get_world_size() if dist.is_initialized() and not _Held.alone else 1


def rank() -> int:
    """The rank of this process in the group, from 0; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else _FIRST


def local_rank() -> int:
    """The rank of this process among those of its machine; it determines the GPU."""
    return int(os.environ.get("LOCAL_RANK") or 0) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and reports for all."""
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
    # Not after an error: this process must report it before the others notice that it has ended.
    _Held.gradients.clear()
    dist.destroy_process_group()


def _start() -> str:
    """The number of this start: torchrun can restart failed processes, with the same store."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def reports_first() -> bool:
    """Whether this process is the first one that reports its end. Only that one prints its error;
    the errors of the others are consequences of it."""
    if _Held.store is None:
        return True
    mine = f"rank {os.environ.get('RANK')}"
    try:
        first = _Held.store.compare_set(f"reported {_start()}", "", mine)
    except Exception:  # the process that hosts the store has ended
        return False
    return bool(first.decode() == mine)


def lost_another(error: Exception) -> bool:
    """Whether the error says that another process of the group has ended."""
    return count() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def device(gpus: str | None) -> torch.device:
    """The device of this process: the GPU that its local rank selects, or the CPU if there is no
    GPU. `gpus` lists GPU numbers, such as '0,2'; None stands for all visible ones.

    Raises:
        UserError: this machine has fewer GPUs than processes.
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


def own(device: torch.device) -> torch.device:
    """The device of this process that corresponds to `device` in the first process."""
    is_other = device.type == "cuda" and count() > 1
    return torch.device("cuda", torch.cuda.current_device()) if is_other else device


def gradient_group(device: torch.device) -> Any:
    """The group that averages gradients: nccl on GPUs, gloo on CPUs. This call is collective."""
    kind = device.type
    if kind not in _Held.gradients:
        backend = "nccl" if kind == "cuda" else "gloo"
        _Held.gradients[kind] = dist.new_group(backend=backend, timeout=_TIMEOUT)
    return _Held.gradients[kind]


def wait() -> None:
    """Wait until all processes get here, for example until the first one has written a file."""
    if count() > 1:
        dist.barrier()


def broadcast(value: Result) -> Result:
    """The value of the first process."""
    held = [value]
    if count() > 1:
        dist.broadcast_object_list(held, src=_FIRST)
    return held[0]


def once(make: Callable[[], Result]) -> Result:
    """The result of `make`, which only the first process calls. Within `make`, `count` is 1, except
    in work that the first process shares with the others; see `shared`."""
    if count() == 1:
        return make()
    sent: Any = (None, None)
    if is_first():
        with _alone(True):
            sent = (None, make())
    while work := (sent := broadcast(sent))[0]:
        work()
    return sent[1]  # type: ignore[no-any-return]


def shared(work: Callable[[], Result]) -> Result:
    """The result of `work`, which all processes call together. Within `once`, the first one sends
    it to the others: it must be a `functools.partial` of a module's function and plain values."""
    if not _Held.alone:
        return work()
    with _alone(False):
        broadcast((work, None))
        return work()


@contextmanager
def _alone(value: bool) -> Iterator[None]:
    before, _Held.alone = _Held.alone, value
    try:
        yield
    finally:
        _Held.alone = before


@contextmanager
def one_after_the_other() -> Iterator[None]:
    """This block is run by the first process, then by the first one of every other machine, then by
    the rest. So a file that one of them downloads is there for the next ones."""
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
    """All results in their original order, if their parts were distributed round-robin (see
    `dealt`). Only the first process gets them; the others get an empty list."""
    if count() == 1:
        return mine
    hands: list[Any] = [[]] * count() if is_first() else []
    dist.gather_object(mine, hands or None, dst=_FIRST)
    turns = range(max(map(len, hands), default=0))
    return [hand[turn] for turn in turns for hand in hands if turn < len(hand)]


def dealt(place: int) -> bool:
    """Whether part number `place`, from 0, goes to this process (round-robin)."""
    return place % count() == rank()


def sum_of(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the device of the tensor."""
    if count() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total, group=gradient_group(values.device))
    return total


def part(n: int, block: int = 1, place: int | None = None) -> range:
    """The share of the process with rank `place` (default: this one) of the rows 0 to n - 1. Shares
    are contiguous, ordered by rank, and consist of whole blocks; the last ones can be empty."""
    place = rank() if place is None else place
    each, more = divmod(-(-n // block), count())
    return range(*(min(n, block * (each * p + min(p, more))) for p in (place, place + 1)))


def complete(whole: torch.Tensor, block: int = 1) -> torch.Tensor:
    """Fill a tensor (n, ...) in place with the rows of all processes; each has computed its `part`
    of them."""
    for place in range(count()) if count() > 1 else ():
        rows, group = part(len(whole), block, place), gradient_group(whole.device)
        if rows:
            dist.broadcast(whole[rows.start : rows.stop], src=place, group=group)
    return whole


def joined(mine: list[torch.Tensor], n: int, block: int = 1) -> torch.Tensor:
    """All rows (n, ...) on the CPU. `mine` holds the `part` of this process, in pieces."""
    if count() == 1:
        return torch.cat(mine)
    shape, dtype = broadcast((mine[0].shape[1:], mine[0].dtype) if mine else None)  # type: ignore
    whole, rows = torch.empty(n, *shape, dtype=dtype), part(n, block)
    if mine:
        torch.cat(mine, out=whole[rows.start : rows.stop])
    return complete(whole, block)


def copy_first(tensors: Iterable[torch.Tensor]) -> None:
    """Copy the values of tensors from the first process, in place."""
    for tensor in tensors if count() > 1 else ():
        dist.broadcast(tensor, src=_FIRST, group=gradient_group(tensor.device))


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
