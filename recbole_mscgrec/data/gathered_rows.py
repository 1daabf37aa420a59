"""Rows whose histories are built when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_mscgrec.storage.cache import Blocks

FIRST_TARGET = "first_target"  # of a window: not shown as a column
_ROWS_AT_ONCE = 1 << 15
Columns = dict[str, torch.Tensor]


class GatheredRows(Interaction):
    """Rows whose histories and targets, (R, T), are gathered from the users' sequences when they
    are read: stored, they would take 10 GB for a million users.

    Args:
        columns: the stored columns, (R,) each.
        gathered: name of a further column -> function that makes it from the stored ones.
    """

    def __init__(
        self, columns: Columns, gathered: Mapping[str, Callable[[Columns], torch.Tensor]]
    ) -> None:
        super().__init__(columns)
        self.gathered = dict(gathered)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index in self.gathered:
                return self.gathered[index](self.interaction)
            return super().__getitem__(index)
        rows = super().__getitem__(index)
        made = {name: gather(rows.interaction) for name, gather in self.gathered.items()}
        rows.interaction.update(made)
        rows.interaction.pop(FIRST_TARGET, None)
        return rows

    def in_blocks(self, name: str) -> Any:
        """A column in blocks for `cache.fingerprint`, with the fingerprint of the whole column."""
        if name not in self.gathered:
            return self[name]
        one = self[:1][name].numpy()
        return Blocks(str(one.dtype), (len(self), *one.shape[1:]), self._blocks_of(name))

    def _blocks_of(self, name: str) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield self[start : start + _ROWS_AT_ONCE][name].numpy()

    @property
    def columns(self) -> list[str]:
        held = [name for name in self.interaction if name != FIRST_TARGET]
        return [*held, *self.gathered]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    # RecBole's methods that return other rows know only the stored columns.
    def to(self, *args: Any, **kwargs: Any) -> Interaction:
        return self[:].to(*args, **kwargs)

    def cpu(self) -> Interaction:
        return self[:].cpu()

    def numpy(self) -> dict[str, np.ndarray]:
        return self[:].numpy()

    def repeat(self, *args: Any, **kwargs: Any) -> Interaction:
        return self[:].repeat(*args, **kwargs)

    def repeat_interleave(self, *args: Any, **kwargs: Any) -> Interaction:
        return self[:].repeat_interleave(*args, **kwargs)
