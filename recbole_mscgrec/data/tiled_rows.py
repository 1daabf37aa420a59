"""Rows for training and evaluation: tiled windows for the train split, RecBole's rows elsewhere.

RecBole turns a user's sequence into one padded row per prefix. Here the train split becomes windows
with a target at every position: the same prefixes and targets in about 50 times fewer rows. RecBole
itself splits the data, on its own rows, so all models have the same three splits.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_mscgrec.config.protocol import LABELED
from recbole_mscgrec.data.gathered_rows import FIRST_TARGET, Columns, GatheredRows
from recbole_mscgrec.data.parts import has_histories
from recbole_mscgrec.storage.errors import UserError

POSITION = "sequence_position"
Span = tuple[torch.Tensor, torch.Tensor]  # (R,) each: first index in the sorted sequence, length


def target_list_field(config: Any) -> str:
    """Name of the (B, T) field that holds the next item of every position; 0 if there is none."""
    return f"{config['ITEM_ID_FIELD']}_target{config['LIST_SUFFIX']}"


class TiledDataset(SequentialDataset):
    """SequentialDataset whose train split holds windows of at most MAX_ITEM_LIST_LENGTH positions.

    Train rows: user id, history (T,), length, targets (T,). Valid and test rows: user id, history
    (T,), length, target item. They are the rows of SequentialDataset, sorted by length, because a
    batch is as wide as its longest history. Windows are cut from the end of a sequence, so the
    latest targets have the longest histories, as in evaluation. With `train_rows: prefix`, train
    rows are like the others. There is no Python loop over rows, and all are `GatheredRows`.

    The `POSITION` of a row is the index of its target among all interactions, sorted by user and
    time.
    """

    inter_feat: Interaction

    @property
    def history_field(self) -> str:
        """Name of the (B, T) field of history items."""
        return f"{self.iid_field}{self.config['LIST_SUFFIX']}"

    def _benchmark_presets(self) -> None:
        if has_histories(self):
            raise UserError(
                f"benchmark_filename ({self.config['benchmark_filename']}): "
                f"{self.config['model']} builds histories itself and takes no column "
                f"{self.history_field}: give parts of plain interactions (user, item, time) in the "
                "order of time, or use one of RecBole's models."
            )
        super()._benchmark_presets()

    def data_augmentation(self) -> None:
        """Replace the interactions by one light row per prefix, with the target and its position.

        The data are split on these rows; `build` then turns them into histories or windows.
        """
        if LABELED in self.config["eval_args"]["mode"].values():
            raise UserError(
                f"eval_args mode labeled: {self.config['model']} predicts the next item, not "
                "labels; use full, or uniN for sampled negatives."
            )
        self._check_field("uid_field", "iid_field", "time_field")
        self._aug_presets()
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        first_of_user = np.r_[True, users[1:] != users[:-1]]
        starts = np.maximum.accumulate(np.where(first_of_user, np.arange(len(users)), 0))
        self._sequence = self.inter_feat[self.iid_field].numpy().astype(np.int32)
        self._sequence_start, self._sequence_user = starts, users
        targets = torch.from_numpy(np.flatnonzero(~first_of_user))
        rows = self.inter_feat[targets]
        rows.update(Interaction({POSITION: targets}))
        self.set_field_property(POSITION, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        self.inter_feat = rows

    def build(self) -> list[SequentialDataset]:
        """Split as RecBole does, then make windows of the train split and histories of the
        others."""
        train, *held_out = super().build()
        train._targets = train.inter_feat  # light rows
        train._plan_windows(train.inter_feat[POSITION].numpy())
        by_prefix = self.config["train_rows"] == "prefix"
        train.inter_feat = train.prefixes() if by_prefix else train.windows()
        for split in held_out:
            rows = self._histories(split.inter_feat)
            rows._reindex(rows[self.item_list_length_field].argsort(stable=True))
            split.inter_feat = rows
        return [train, *held_out]

    def sequence_of(self, user: int) -> np.ndarray:
        """The ids of all items of a user, over all splits, oldest first: (n,)."""
        begin, end = np.searchsorted(self._sequence_user, [user, user + 1])
        return self._sequence[begin:end].astype(np.int64)

    def windows(self) -> GatheredRows:
        """The train split as windows, whatever `train_rows` is."""
        begin, end = self._window_bounds()
        columns = {
            self.uid_field: torch.from_numpy(self._window_user),
            self.item_list_length_field: torch.from_numpy(end - begin + 1),
            FIRST_TARGET: torch.from_numpy(begin),
        }
        targets = target_list_field(self.config)
        gathered = {self.history_field: self._history, targets: self._window_targets}
        return GatheredRows(columns, gathered)

    def _window_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The index of the first and of the last target of each window in the sorted sequence."""
        width, last = self.max_item_list_len, self._window_last
        end = last - self._window * width
        return np.maximum(end - width + 1, self._sequence_start[last] + 1), end

    def _window_targets(self, rows: Columns) -> torch.Tensor:
        span = (rows[FIRST_TARGET], rows[self.item_list_length_field])
        return self._gather(self._sequence, span) * self._gather(self._is_target, span)

    def prefixes(self) -> GatheredRows:
        """The train split with one row per prefix, whatever `train_rows` is."""
        return self._histories(self._targets)

    def _histories(self, rows: Interaction) -> GatheredRows:
        end = rows[POSITION].numpy()  # (R,) index of the target in the sorted sequence
        start = np.maximum(self._sequence_start[end], end - self.max_item_list_len)
        columns = {name: rows[name] for name in (self.uid_field, self.iid_field, POSITION)}
        columns[self.item_list_length_field] = torch.from_numpy(end - start)
        return GatheredRows(columns, {self.history_field: self._history})

    def _history(self, rows: Columns) -> torch.Tensor:
        return self._gather(self._sequence, self._span(rows))

    def _span(self, rows: Columns) -> Span:
        """The span of the history of each row."""
        length = rows[self.item_list_length_field]
        return rows[FIRST_TARGET] - 1 if FIRST_TARGET in rows else rows[POSITION] - length, length

    def _plan_windows(self, targets: np.ndarray) -> None:
        """Rows of the train split. Window k of a user ends k * T targets before the user's last
        target."""
        self._is_target = np.zeros(len(self._sequence), dtype=bool)
        self._is_target[targets] = True
        users = np.zeros(len(self._sequence), dtype=np.int64)
        users[targets] = self.inter_feat[self.uid_field].numpy()
        start, order = self._sequence_start[targets], np.argsort(targets, kind="stable")
        # (U,) the last target of every user that has one, and the number of windows back from it.
        last = targets[order][np.r_[start[order][1:] != start[order][:-1], True]]
        counts = -((self._sequence_start[last] - last) // self.max_item_list_len)
        which = np.repeat(np.arange(len(last)), counts)
        self._window = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._window_last, self._window_user = last[which], users[last[which]]

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Rows by index. The windows of a batch are cut to the longest one, since most positions
        would be padding if users have few interactions. Rows of the whole data set, from which
        RecBole's `get_flops` takes one, get their histories here."""
        rows = super().__getitem__(index, join)
        if POSITION in rows and self.history_field not in rows:
            rows.update(self._histories(rows)[:])
        targets = target_list_field(self.config)
        if targets in rows and rows[targets].dim() == 2 and len(rows):
            longest = max(int(rows[self.item_list_length_field].max()), 1)
            for field in (self.history_field, targets):
                rows.interaction[field] = rows[field][:, :longest]
        return rows

    def _gather(self, values: np.ndarray, span: Span) -> torch.Tensor:
        """The values, of the sorted sequence, in spans: (R, T), left-aligned, padded with 0."""
        (first, lengths), column = span, np.arange(self.max_item_list_len)
        start, length = first.numpy(), lengths.numpy()
        index = (start[:, None] + column).clip(0, len(values) - 1)
        inside = column < length[:, None]
        return torch.from_numpy(np.where(inside, values[index], np.int64(0)))

    @property
    def item_counter(self) -> Counter:
        """Number of occurrences of every item as a target, as RecBole counts them on its prefix
        rows."""
        if not hasattr(self, "_is_target"):  # not a train split
            return super().item_counter
        counts = self.target_counts()
        return Counter({item: int(counts[item]) for item in np.flatnonzero(counts).tolist()})

    def target_counts(self) -> np.ndarray:
        """How often each item is a target of this train split: int (N,)."""
        return np.bincount(self._sequence[self._is_target], minlength=self.item_num)

    def pairs(self, distance: int) -> tuple[np.ndarray, np.ndarray]:
        """The items `distance` places before the targets of this train split, in the same user's
        sequence, and these targets: (n,) both. Targets without such an item are left out."""
        later = np.flatnonzero(self._is_target)
        later = later[later - distance >= self._sequence_start[later]]
        return self._sequence[later - distance], self._sequence[later]

    def items_seen(self) -> torch.Tensor:
        """Ascending ids of all items in this train split, as history or as target."""
        begin, end = self._window_bounds()
        change = np.zeros(len(self._sequence) + 1, dtype=np.int32)
        np.add.at(change, begin - 1, 1)  # a history begins before the first target
        np.add.at(change, end, -1)
        shown = (change[:-1].cumsum() > 0) | self._is_target
        return torch.from_numpy(np.unique(self._sequence[shown]).astype(np.int64))
