"""RecBole's evaluation in several processes, with exactly the metrics of one process."""

from __future__ import annotations

from collections import OrderedDict
from functools import wraps
from typing import Any

import torch

from recbole_mscgrec.storage import processes


def apply() -> None:
    """`Trainer._map_reduce` averages the metrics of the processes. Here the first process collects
    the lists of all, in the order of a single process, and only its Evaluator measures them; the
    others get its result. Safe to call again."""
    from recbole.evaluator import Collector, Evaluator
    from recbole.evaluator.collector import DataStruct
    from recbole.trainer import Trainer

    if getattr(Trainer._map_reduce, "of_the_first", False):
        return
    _keep_the_lengths_of_batches(DataStruct)
    collected, measured = Collector.get_data_struct, Evaluator.evaluate
    evaluated = Trainer.evaluate

    @wraps(collected)  # copies the marks of earlier fixes
    def get_data_struct(self: Any) -> Any:
        lengths = dict(getattr(self.data_struct, "lengths", {}))
        struct = collected(self)
        if self.config["single_spec"]:
            return struct
        for name in processes.broadcast(sorted(lengths)):
            batches = struct.get(name).split(lengths[name]) if name in struct else ()
            everything = processes.in_turn(list(batches))
            if everything:
                struct.set(name, torch.cat(everything))
        return struct

    @wraps(measured)
    def evaluate(self: Any, dataobject: Any) -> Any:
        if self.config["single_spec"] or processes.is_first():
            return measured(self, dataobject)
        return OrderedDict()

    def _map_reduce(self: Any, result: Any, num_sample: int) -> Any:
        return processes.broadcast(result)

    @wraps(evaluated)
    def evaluate_split(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.config["single_spec"]:
            processes.wait()  # for the checkpoint that the first process writes
        return evaluated(self, *args, **kwargs)

    Collector.get_data_struct = get_data_struct
    Evaluator.evaluate = evaluate
    Trainer.evaluate = evaluate_split
    Trainer._map_reduce = _map_reduce
    Trainer._map_reduce.of_the_first = True


def _keep_the_lengths_of_batches(kind: Any) -> None:
    """Give a DataStruct `lengths`: for each of its tensors, the numbers of rows per batch."""
    original = kind.update_tensor

    @wraps(original)
    def update_tensor(self: Any, name: str, value: torch.Tensor) -> None:
        lengths = self.__dict__.setdefault("lengths", {})
        if name not in self:
            lengths[name] = []
        lengths[name].append(len(value))
        original(self, name, value)

    kind.update_tensor = update_tensor
