"""Pre-split data (`benchmark_filename`): histories across the parts, for sequential models.

RecBole expects each row's history in a column of lists there (`item_id_list`). Parts with plain
interactions are concatenated instead: each interaction gets all earlier ones of its user as its
history, and is then a target of its own part.
"""

from __future__ import annotations

from functools import wraps
from itertools import combinations
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_mscgrec.storage.errors import UserError

_PART = "part_of_benchmark"


def list_field(config: Any) -> str:
    """The name of the column that holds the history of each row, if there is one."""
    return f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"


def install() -> None:
    """Make RecBole's SequentialDataset accept parts with and without histories."""
    from recbole.data.dataset import SequentialDataset

    presets, change = SequentialDataset._benchmark_presets, SequentialDataset._change_feat_format
    if getattr(presets, "takes_plain_parts", False):
        return

    @wraps(presets)
    def _benchmark_presets(self: Any) -> None:
        if has_histories(self):
            # RecBole's attribute has this name for any ITEM_ID_FIELD.
            self.item_id_list_field = list_field(self.config)
            # Uncut, for `given_pairs`.
            self.given_histories = self.inter_feat[self.item_id_list_field].to_list()
            _keep_the_newest(self)
            presets(self)

    def _init_alias(self: Any) -> None:
        """Histories contain items even if `alias_of_item_id` does not say so."""
        lists, given = list_field(self.config), self.config["alias_of_item_id"] or []
        if self.config["benchmark_filename"] and has_histories(self) and lists not in given:
            self.config["alias_of_item_id"] = [*given, lists]
        super(SequentialDataset, self)._init_alias()  # KnowledgeBasedDataset's if there is a graph

    @wraps(change)
    def _change_feat_format(self: Any) -> None:
        change(self)
        if self.config["benchmark_filename"] and not has_histories(self):
            _build_histories(self)

    SequentialDataset._benchmark_presets = _benchmark_presets
    SequentialDataset._benchmark_presets.takes_plain_parts = True
    SequentialDataset._init_alias = _init_alias
    SequentialDataset._change_feat_format = _change_feat_format


def has_histories(dataset: Any) -> bool:
    """Whether the files give each row its history."""
    return list_field(dataset.config) in dataset.inter_feat


def given_pairs(dataset: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The users and the items, (n,) each, in the given histories of each part, of any length; [] if
    the files give no histories. Some of these items are the target of no row."""
    lists = getattr(dataset, "given_histories", None)
    if lists is None:
        return []
    users = np.asarray(dataset.inter_feat[dataset.uid_field])
    ends = np.cumsum(dataset.file_size_list)
    return [
        (np.repeat(users[a:b], [len(items) for items in lists[a:b]]), np.concatenate(lists[a:b]))
        for a, b in zip([0, *ends], ends, strict=False)
    ]


def _keep_the_newest(dataset: Any) -> None:
    """Cut given histories to MAX_ITEM_LIST_LENGTH, as RecBole does with those that it builds."""
    suffix, longest = dataset.config["LIST_SUFFIX"], dataset.max_item_list_len
    for field in dataset.inter_feat:
        if f"{field}{suffix}" in dataset.inter_feat:
            lists = f"{field}{suffix}"
            cut = [values[-longest:] for values in dataset.inter_feat[lists]]
            dataset.inter_feat[lists] = cut
            dataset.field2seqlen[lists] = max(map(len, cut))


def _build_histories(dataset: Any) -> None:
    names, sizes = dataset.config["benchmark_filename"], torch.tensor(dataset.file_size_list)
    dataset._check_field("uid_field", "iid_field", "time_field")
    parts = torch.arange(len(sizes)).repeat_interleave(sizes)
    _check_overlap(dataset, parts.numpy())
    _refuse_other_orders(dataset, parts.numpy())
    dataset.inter_feat.interaction[_PART] = parts
    dataset.set_field_property(_PART, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
    dataset.data_augmentation()
    parts = dataset.inter_feat[_PART]
    dataset.inter_feat = dataset.inter_feat[parts.argsort(stable=True)]
    for field in (_PART, f"{_PART}{dataset.config['LIST_SUFFIX']}"):
        if field in dataset.inter_feat:
            dataset._del_col(dataset.inter_feat, field)
    dataset.file_size_list = torch.bincount(parts, minlength=len(sizes)).tolist()
    counts = [
        f"{name} {kept} of {size} rows"
        for name, kept, size in zip(names, dataset.file_size_list, sizes.tolist(), strict=True)
    ]
    getLogger().info(
        f"Targets by part: {', '.join(counts)}; a user's first interaction has no history and is "
        "no target."
    )


def _check_overlap(dataset: Any, parts: np.ndarray) -> None:
    """Raise UserError if two parts have the same rows: each target would be in its own history. A
    warning counts single rows that a later part repeats, which may be two interactions."""
    names, rows = dataset.config["benchmark_filename"], dataset.inter_feat
    fields = [dataset.uid_field, dataset.iid_field, dataset.time_field]
    frame = pd.DataFrame({field: rows[field].numpy() for field in fields})
    pairs = [frame.loc[parts == n, fields[:2]].to_numpy() for n in range(len(names))]
    for one, other in combinations(range(len(names)), 2):
        if np.array_equal(pairs[one], pairs[other]):
            raise UserError(
                f"benchmark_filename ({names}): the parts {names[one]} and {names[other]} have the "
                "same rows, so the model would read each target in its own history. Give every "
                "interaction to one part; parts for validation can be taken from the train part."
            )
    first = frame.assign(part=parts).groupby(fields).part.transform("min").to_numpy()
    if n_repeated := int((parts > first).sum()):
        getLogger().warning(
            f"benchmark_filename ({names}): {n_repeated} rows have the user, item and time of a "
            "row of an earlier part. If they are the same interactions, take them out of one of "
            "the parts: otherwise the model reads the target in its own history."
        )


def _refuse_other_orders(dataset: Any, parts: np.ndarray) -> None:
    """Raise UserError if a part holds an interaction of a user that is older than one in an earlier
    part: a history contains all earlier interactions."""
    rows = dataset.inter_feat
    users, times = rows[dataset.uid_field].numpy(), rows[dataset.time_field].numpy()
    order = np.lexsort((parts, times, users))
    users, parts = users[order], parts[order]
    wrong = (users[1:] == users[:-1]) & (parts[1:] < parts[:-1])
    if wrong.any():
        at = int(wrong.argmax())
        names = dataset.config["benchmark_filename"]
        user = dataset.id2token(dataset.uid_field, int(users[at]))
        raise UserError(
            f"benchmark_filename ({names}): {len(np.unique(users[1:][wrong]))} users have an "
            f"interaction in a later part that is older than one in an earlier part, first {user} "
            f"({names[parts[at]]} before {names[parts[at + 1]]}). Sequential models need parts in "
            "the order of time, or the history of each row in a column "
            f"{list_field(dataset.config)}:token_seq."
        )
