"""Groups of two and three processes: ranks, messages, errors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import in_processes

from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError


def test_one_process_needs_no_group() -> None:
    with processes.together():
        assert (processes.count(), processes.rank(), processes.is_first()) == (1, 0, True)
        processes.wait()
        assert processes.broadcast("a") == processes.once(lambda: "a") == "a"
        assert processes.everyones(3) == processes.in_turn([3]) == [3]
        assert processes.sum_of(torch.tensor(2.0)) == 2
        assert processes.dealt(0) and processes.dealt(1)
        processes.check_same("anything", 1)
    assert processes.reports_first()


def test_messages() -> None:
    def talk() -> dict[str, Any]:
        rank, calls = processes.rank(), []
        mine = [place for place in range(7) if processes.dealt(place)]
        found = {
            "rank": (rank, processes.local_rank(), processes.count(), processes.is_first()),
            "broadcast": processes.broadcast({"of": rank}),
            "once": processes.once(lambda: calls.append(1) or "made"),
            "calls": len(calls),
            "everyones": processes.everyones(rank),
            "in_turn": processes.in_turn(mine),
            "sum": float(processes.sum_of(torch.tensor(rank + 1.0))),
        }
        processes.check_same("the same", torch.ones(2))
        return found

    found = in_processes(3, talk)
    assert [f["rank"] for f in found] == [(0, 0, 3, True), (1, 1, 3, False), (2, 2, 3, False)]
    assert [f["calls"] for f in found] == [1, 0, 0]
    assert [f["in_turn"] for f in found] == [list(range(7)), [], []]
    for one in found:
        assert (one["broadcast"], one["once"], one["sum"]) == ({"of": 0}, "made", 6.0)
        assert one["everyones"] == [0, 1, 2]


def test_what_differs_is_named() -> None:
    def compare() -> None:
        processes.check_same("The item codes", processes.rank() // 2)

    with pytest.raises(UserError, match="The item codes of process 2 and of process 0 differ"):
        in_processes(3, compare)


def test_the_first_error_is_told_and_no_other() -> None:
    def report() -> bool:
        first = processes.reports_first() if processes.rank() == 1 else None
        processes.wait()
        return processes.reports_first() if first is None else first

    assert in_processes(2, report) == [False, True]


def test_the_end_of_another_is_noticed() -> None:
    """Within seconds, by its closed connection."""

    def lose() -> bool:
        if processes.rank() == 1:
            os._exit(9)
        try:
            processes.wait()
        except RuntimeError as error:
            if processes.lost_another(error):
                raise UserError("lost") from error
        return False

    with pytest.raises(UserError, match="lost"):
        in_processes(2, lose)


def test_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "downloaded"

    def download() -> bool:
        with processes.one_after_the_other():
            missing = not file.exists()
            file.touch()
        return missing

    assert in_processes(3, download) == [True, False, False]


def test_groups_one_after_the_other() -> None:
    """A script may run several models."""

    def twice() -> list[list[int]]:
        found = []
        for _ in range(2):
            with processes.together(), processes.together():  # the inner one is the same group
                found.append(processes.everyones(processes.rank()))
        return [*found, [processes.count()]]

    assert in_processes(2, twice, group=False) == [[[0, 1], [0, 1], [1]]] * 2


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    assert processes.device(None) == torch.device("cuda", 1) and chosen == [1]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert processes.device("0,2") == torch.device("cuda", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert processes.device("") == torch.device("cpu")
    monkeypatch.setattr(processes, "local_rank", lambda: 2)
    with pytest.raises(UserError, match="a machine with 2 GPUs to use: start at most one per GPU"):
        processes.device(None)


def test_incomplete_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but RANK, MASTER_ADDR"):
        with processes.together():
            pass


def name_and_count(name: str) -> list[tuple[str, int, int]]:
    return processes.everyones((name, processes.rank(), processes.count()))


def nested() -> list[Any]:
    """A shared work that has a part for the first process alone, with another shared work."""
    made = processes.once(
        lambda: [processes.count(), processes.shared(partial(name_and_count, "b"))]
    )
    return [made, processes.count()]


def test_shared_work_of_the_first_process() -> None:
    """Between the works that it shares, it is alone: a message then waits for nobody."""

    def stages() -> list[Any]:
        calls: list[Any] = []

        def make() -> list[Any]:
            calls.append(processes.broadcast(processes.count()))
            first = processes.shared(partial(name_and_count, "a"))
            calls.append(processes.everyones(processes.count()))
            return [first, processes.shared(nested)]

        return [processes.once(make), calls, processes.count()]

    alone, *others = in_processes(3, stages)
    a, b = ([(name, rank, 3) for rank in range(3)] for name in "ab")
    assert alone == [[a, [[1, b], 3]], [1, [1]], 3]
    assert others == [[alone[0], [], 3]] * 2
    assert stages() == [[[("a", 0, 1)], [[1, [("b", 0, 1)]], 1]], [1, [1]], 1]


def test_an_error_in_shared_work_is_that_of_the_process_that_failed() -> None:
    def make() -> Any:
        return processes.once(lambda: processes.shared(fail_in_the_second))

    with pytest.raises(UserError, match="no such folder in process 1"):
        in_processes(2, make)


def fail_in_the_second() -> None:
    if processes.rank() == 1:
        raise UserError("no such folder in process 1")
    processes.wait()


@pytest.mark.parametrize(("n", "block"), [(10, 1), (10, 3), (2, 1), (12, 4), (4, 4)])
def test_rows_in_parts(n: int, block: int) -> None:
    """Whole blocks in order, every row once; fewer blocks than processes leave some out."""
    whole = torch.arange(2.0 * n).view(n, 2)

    def made() -> tuple[range, torch.Tensor, torch.Tensor]:
        mine = processes.part(n, block)
        filled = torch.full_like(whole, -1)
        filled[mine.start : mine.stop] = whole[mine.start : mine.stop]
        pieces = [whole[i : min(i + block, mine.stop)] for i in mine[::block]]
        return mine, processes.complete(filled, block), processes.joined(pieces, n, block)

    for count in (1, 3):
        found = in_processes(count, made) if count > 1 else [made()]
        assert [row for mine, *_ in found for row in mine] == list(range(n))
        for mine, filled, joined in found:
            assert mine.start % block == 0 or not mine
            assert torch.equal(filled, whole) and torch.equal(joined, whole)


def test_the_values_of_the_first_process() -> None:
    def copied() -> float:
        processes.copy_first([value := torch.tensor([processes.rank() + 1.0])])
        return float(value)

    assert in_processes(2, copied) == [1, 1]
