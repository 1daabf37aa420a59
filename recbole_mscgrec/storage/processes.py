"""Several processes that train one model together: their ranks, and what they tell each other.

torchrun starts them, on one or on several machines, and sets RANK, WORLD_SIZE and LOCAL_RANK; so
does `--nproc` (runner/launch.py). Within `together` they form a group of torch.distributed. In a
single process there is no group, and each function here does what is right for one.

The group works on CPUs (gloo), also if the model is on GPUs: it carries plain values, such as
ranked lists. Gradients on GPUs have a group of their own (`gradient_group`). From `wait` on, all
processes must call the functions below at the same point.
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
# A stage of the first process may take days. A process that ends is noticed at once, because its
# connections close.
_TIMEOUT = timedelta(days=7)
_FIRST = 0  # the rank that writes files and speaks for all


class _Held:
    """What this process has of the processes that train together."""

    store: Any = None
    n_groups = 0
    alone = False  # the first process, within `once`
    gradients: dict[str, Any] = {}


def n_started() -> int:
    """The number of processes that torchrun started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def n_started_here() -> int:
    """The number of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or n_started())


def count() -> int:
    """The number of processes in the group; 1 without one, and within `once`."""
    return dist.get_world_size() if dist.is_initialized() and not _Held.alone else 1


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
    # Not after an error: the others learn of the end of this process after it has said why.
    _Held.gradients.clear()
    dist.destroy_process_group()


def _start() -> str:
    """torchrun can start failed processes again, with the same store."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def reports_first() -> bool:
    """Whether this process is the first of all to report its end, so that only its error is told,
    and not those that it causes in the others."""
    if _Held.store is None:
        return True
    mine = f"rank {os.environ.get('RANK')}"
    try:
        first = _Held.store.compare_set(f"reported {_start()}", "", mine)
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


def own(device: torch.device) -> torch.device:
    """The device of this process, for the one that the first process has."""
    is_other = device.type == "cuda" and count() > 1
    return torch.device("cuda", torch.cuda.current_device()) if is_other else device


def gradient_group(device: torch.device) -> Any:
    """The group in which gradients are averaged: nccl on GPUs, gloo on CPUs. All processes must
    call this at the same point."""
    kind = device.type
    if kind not in _Held.gradients:
        backend = "nccl" if kind == "cuda" else "gloo"
        _Held.gradients[kind] = dist.new_group(backend=backend, timeout=_TIMEOUT)
    return _Held.gradients[kind]


def wait() -> None:
    """Wait until all processes are here, for example until the first one has written a file."""
    if count() > 1:
        dist.barrier()


def broadcast(value: Result) -> Result:
    """The value that the first process has."""
    held = [value]
    if count() > 1:
        dist.broadcast_object_list(held, src=_FIRST)
    return held[0]


def once(make: Callable[[], Result]) -> Result:
    """The result of `make`, which only the first process calls. Within it that process is on its
    own (`count` is 1), but for the work that it shares; see `shared`."""
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
    """The result of `work`, which all processes call at the same time. Within `once`, the first
    one sends it to the others: a `functools.partial` of a function of a module and plain values."""
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
    hands: list[Any] = [[]] * count() if is_first() else []
    dist.gather_object(mine, hands or None, dst=_FIRST)
    turns = range(max(map(len, hands), default=0))
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


def part(n: int, block: int = 1, place: int | None = None) -> range:
    """The rows, of 0 to n - 1, that are the part of one process, by default of this one. Parts are
    contiguous, by rank, and made of whole blocks of rows; the last ones can be empty."""
    place = rank() if place is None else place
    each, more = divmod(-(-n // block), count())
    return range(*(min(n, block * (each * p + min(p, more))) for p in (place, place + 1)))


def complete(whole: torch.Tensor, block: int = 1) -> torch.Tensor:
    """Fill the rows of a tensor (n, ...) in place. Each process has made its part of them."""
    for place in range(count()) if count() > 1 else ():
        rows, group = part(len(whole), block, place), gradient_group(whole.device)
        if rows:
            dist.broadcast(whole[rows.start : rows.stop], src=place, group=group)
    return whole


def joined(mine: list[torch.Tensor], n: int, block: int = 1) -> torch.Tensor:
    """All n rows (n, ...) on the CPU. `mine` is the part of this process, in pieces."""
    if count() == 1:
        return torch.cat(mine)
    shape, dtype = broadcast((mine[0].shape[1:], mine[0].dtype) if mine else None)  # type: ignore
    whole, rows = torch.empty(n, *shape, dtype=dtype), part(n, block)
    if mine:
        torch.cat(mine, out=whole[rows.start : rows.stop])
    return complete(whole, block)


def copy_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors the values that they have in the first process."""
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
