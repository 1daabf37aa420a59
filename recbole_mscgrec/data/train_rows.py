"""Fingerprints: of the rows that a model is trained on, kept in its checkpoints, and of the files
that a run reads, kept in its result."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mscgrec.data.gathered_rows import GatheredRows
from recbole_mscgrec.storage import cache
from recbole_mscgrec.storage.errors import UserError

_ATOMIC = (".inter", ".item", ".user", ".kg", ".link", ".net")


def train_rows(dataset: Any) -> dict[str, str]:
    """`rows`, the fingerprint of a train split and of its users' and items' names; `form`, the kind
    of its rows; and `targets`, the fingerprint of the names and of the users' targets in any order,
    which sequential models with rows of another form have in common."""
    feat = dataset.inter_feat
    columns = {name: cache.fingerprint(rows=_column(feat, name)) for name in sorted(feat.columns)}
    for field in (dataset.uid_field, dataset.iid_field):
        if field:
            columns[f"names of {field}"] = cache.fingerprint(names=_names(dataset, field))
    form = f"{type(dataset).__name__}, {dataset.config['MAX_ITEM_LIST_LENGTH']}"
    if dataset.config["train_rows"] == "prefix":
        form += ", prefix"
    targets = {name: part for name, part in columns.items() if name.startswith("names of ")}
    rows = getattr(dataset, "_targets", feat)  # a window has several targets
    if {dataset.uid_field, dataset.iid_field} <= {*rows.columns}:
        users, items = (np.asarray(rows[f]) for f in (dataset.uid_field, dataset.iid_field))
        targets["pairs"] = cache.fingerprint(pairs=np.sort(users * dataset.item_num + items))
    return {
        "rows": cache.fingerprint(**columns),
        "form": form,
        "targets": cache.fingerprint(**targets),
    }


def _column(feat: Any, name: str) -> Any:
    return feat.in_blocks(name) if isinstance(feat, GatheredRows) else feat[name]


def _names(dataset: Any, field: str) -> np.ndarray:
    return np.asarray(dataset.field2id_token[field]).astype(str)


def check_same_rows(
    key_name: str, file: Any, trained: Mapping[str, str], ours: Mapping[str, str]
) -> None:
    """Check that a saved model was trained on the train rows of this run. Of models with rows of
    another form, the targets are compared; checkpoints of older versions lack them.

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
    part = "rows" if trained.get("form") == ours["form"] else "targets"
    before, now = trained.get(part), ours.get(part)
    if before is None or before == now:
        return ""
    return f"train rows with the fingerprint {before}, and this run has {now}"


def fingerprint_of_files(config: Any) -> str:
    """The fingerprint of what a run reads: atomic files and the files that its settings name by
    content, images and the folder of a text encoder by names and sizes."""
    return cache.fingerprint(**dict(_files(config)))


def _files(config: Any) -> Iterator[tuple[str, Any]]:
    folder = Path(config["data_path"])
    for file in folder.iterdir():
        if file.name.startswith(f"{config['dataset']}.") and file.suffix in _ATOMIC:
            yield file.name, _content(file)
    for key in ("vectors_file", "codes_file", "rescore_model", "initial_model"):
        given = config[key] if key in config else None
        named = given if isinstance(given, dict) else dict(enumerate(_as_list(given)))
        for name, file in named.items():
            if Path(file).is_file():
                yield f"{key} {name}", _content(Path(file))
    if "image_dir" in config:
        yield "images", _names_and_sizes(Path(config["image_dir"] or folder / "images"))
    if "text_encoder" in config:
        yield "text_encoder", _names_and_sizes(Path(config["text_encoder"]))


def _as_list(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]


def _names_and_sizes(folder: Path) -> list[list[Any]]:
    if not folder.is_dir():
        return []
    return sorted([p.name, p.stat().st_size] for p in folder.iterdir() if p.is_file())


def _content(file: Path) -> str:
    status = file.stat()
    return _hash(file.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache  # the cells of a table read the same files
def _hash(file: Path, size: int, changed: int) -> str:
    return cache.fingerprint(content=file)
