"""Excludes seen items from the ranking, for every model that ranks all items (`exclude_seen`).

RecBole's evaluation excludes the items in a batch's `history_index`. Its own loaders fill it only
for non-sequential models, and only if `repeatable` is False. Here the loaders of all models fill
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from scipy.sparse import csr_matrix

from recbole_mscgrec.data.parts import given_pairs
from recbole_mscgrec.storage.errors import UserError

NONE, ALL, HISTORY = "none", "all", "history"


class SeenItems:
    """The interactions of all users, over all splits, and the items of given histories.

    Args:
        data: a data set before the split, as returned by `create_dataset`.
        which: 'all' items that the user has seen before, or 'history', those in the history that
            the model reads, as the authors of HSTU do.

    Raises:
        UserError: `which` is something else.
    """

    def __init__(self, data: Any, which: str = ALL) -> None:
        if which not in (ALL, HISTORY):
            raise UserError(f"exclude_seen ({which!r}) must be {NONE!r}, {ALL!r} or {HISTORY!r}.")
        self.which = which
        self.shape = (data.user_num, data.item_num)
        rows = data.inter_feat
        self.had = _counts(rows[data.uid_field], rows[data.iid_field], self.shape)
        self.given = [_counts(*pairs, self.shape) for pairs in given_pairs(data)]

    def leave_out(self, valid_data: Any, test_data: Any) -> None:
        """Make the loaders exclude the items that their users have seen: those of the train split
        and, for the test, those of validation. A target of the evaluated split is never excluded.
        A seen item is excluded even if it occurs again as a target of a later split.

        Raises:
            UserError: the loaders sample candidates; or 'history' is set for a model that reads no
                history.
        """
        before = self.had  # counts: removing a target must not hide earlier ones of the same item
        # From the last split back to the first, with the number of parts whose histories count.
        for loader, n_parts in ((test_data, 3), (valid_data, 2)):
            if not isinstance(loader, FullSortEvalDataLoader):
                raise UserError(
                    f"exclude_seen={self.which} needs the ranking of all items: set eval_args mode "
                    "to full, or use exclude_seen=none."
                )
            rows = loader._dataset.inter_feat
            targets = _counts(rows[loader.uid_field], rows[loader.iid_field], self.shape)
            before = before - targets
            seen = (sum(self.given[:n_parts], before) > 0) > (targets > 0)
            history = _history_field(loader) if self.which == HISTORY else None
            loader.collate_fn = _collate_with(loader, seen, history)


def _counts(rows: Any, items: Any, shape: tuple[int, int]) -> csr_matrix:
    """How often each row (a user, or a row of a batch) has each item."""
    where = (np.asarray(rows), np.asarray(items))
    return csr_matrix((np.ones(len(where[0]), dtype=np.int32), where), shape=shape)


def _history_field(loader: Any) -> str:
    """The name of the history field that the model reads."""
    field = f"{loader.iid_field}{loader._dataset.config['LIST_SUFFIX']}"
    if field not in loader._dataset.inter_feat:
        raise UserError(
            f"exclude_seen={HISTORY} needs a sequential model, which reads a history: use "
            f"exclude_seen={ALL}."
        )
    return field


def _collate_with(loader: Any, seen: csr_matrix, history: str | None) -> Any:
    plain = loader.collate_fn

    def collate(index: Any) -> tuple:
        """The loader's batch for full ranking, with its users' seen items as `history_index`."""
        users, _, positive_u, positive_i = plain(index)
        rows = seen[users[loader.uid_field].numpy()]
        if history is not None:
            items = users[history].numpy()
            row, place = items.nonzero()  # 0 is padding
            rows = rows.multiply(_counts(row, items[row, place], rows.shape) > 0).tocsr()
        row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        history_index = (torch.from_numpy(row), torch.from_numpy(rows.indices.astype(np.int64)))
        return users, history_index, positive_u, positive_i

    return collate
