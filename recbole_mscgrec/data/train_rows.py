"""The fingerprint of the rows that a model is trained on, which its checkpoints carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_mscgrec.data.gathered_rows import GatheredRows
from recbole_mscgrec.storage import cache
from recbole_mscgrec.storage.errors import UserError


def train_rows(dataset: Any) -> dict[str, str]:
    """`rows`, the fingerprint of a train split and of its users' and items' names, and `form`, the
    kind of its rows: only rows of the same form can be compared."""
    feat = dataset.inter_feat
    columns = {name: cache.fingerprint(rows=_column(feat, name)) for name in sorted(feat.columns)}
    for field in (dataset.uid_field, dataset.iid_field):
        if field:
            columns[f"names of {field}"] = cache.fingerprint(names=_names(dataset, field))
    form = f"{type(dataset).__name__}, {dataset.config['MAX_ITEM_LIST_LENGTH']}"
    return {"rows": cache.fingerprint(**columns), "form": form}


def _column(feat: Any, name: str) -> Any:
    return feat.in_blocks(name) if isinstance(feat, GatheredRows) else feat[name]


def _names(dataset: Any, field: str) -> np.ndarray:
    return np.asarray(dataset.field2id_token[field]).astype(str)


def check_same_rows(
    key_name: str, file: Any, trained: Mapping[str, str], ours: Mapping[str, str]
) -> None:
    """Check that a saved model was trained on the train rows of this run. Checkpoints of older
    versions, and of models with rows of another form, are not compared.

    Raises:
        UserError: it was trained on other rows, perhaps on those that it is tested on.
    """
    if text := other_rows(trained, ours):
        raise UserError(
            f"{key_name} ({file}) was trained on {text}: the data have changed since. Use the data "
            "of that training, or train again."
        )


def other_rows(trained: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """How the train rows of a checkpoint differ from those of this run; '' if they do not, or
    cannot be compared."""
    if trained.get("form") != ours["form"] or trained.get("rows") == ours["rows"]:
        return ""
    return f"train rows with the fingerprint {trained.get('rows')}, and this run has {ours['rows']}"
