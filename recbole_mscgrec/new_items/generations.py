"""Generations of an export: writes the next one, with items added, removed or restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from recbole_mscgrec.new_items.kept_encoders import ENCODERS, FEATURES
from recbole_mscgrec.new_items.new_codes import NewCodes
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_files import read_manifest
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.storage import lock

Tensor = torch.Tensor
NAME = "generation"  # of the lock
_ITEM_VECTORS = "history.item_embedding.weight"


def claimed(folder: Path) -> AbstractContextManager[None]:
    """Within this block no other process can write a generation of the export in a folder. Raises
    UserError if another process is writing one."""
    return lock.claim(folder / NAME, f"writes a generation of {folder}")


@contextmanager
def opened(folder: Path) -> Iterator[Export]:
    """The export in a folder; within this block no other process can write a generation of it.

    Raises:
        UserError: another process is writing one, or the folder holds no export.
    """
    read_manifest(folder)  # fail before the lock makes a file in a folder without an export
    with claimed(folder):
        yield export_folder.read(folder)


def with_items(
    export: Export,
    tokens: list[str],
    titles: list[str],
    made: NewCodes,
    text: Tensor | None = None,
) -> Export:
    """The export with n new items at its end, and the vectors of their texts (n, D). Codes, weights
    and vectors of the existing items stay as they are."""
    n, before = len(tokens), export.table
    codes = {name: torch.cat([known, made.codes[name]]) for name, known in before.codes.items()}
    table = CodeTable(codes, before.sizes, before.target)
    all_titles = None
    if export.titles is not None or any(titles):
        all_titles = [*(export.titles or [""] * len(export.items)), *titles]
    return replace(
        export,
        table=table,
        weights=grown_weights(export, table),
        items=[*export.items, *tokens],
        titles=all_titles,
        popularity=_extended(export.popularity, n, 0),
        removed=_extended(export.removed, n, 0),
        added_in=_extended(export.added_in, n, export.generation + 1),
        vectors={
            name: torch.cat([known, made.vectors[name].to(known.dtype)])
            for name, known in export.vectors.items()
        },
        transitions=export.transitions and export.transitions.with_items(n, text),
    )


def with_removed(export: Export, ids: Tensor, removed: bool) -> Export:
    """The export with items (n,) removed or restored."""
    mask = export.removed.clone()
    mask[ids] = removed
    return replace(export, removed=mask)


def grown_weights(export: Export, after: CodeTable) -> dict[str, Tensor]:
    """The weights of an export's network for a table with more items at its end. If all items have
    a learned vector, existing items and tree nodes keep theirs, and new ones get zeros, like items
    that training does not see. If only some have one, these weights stay as they are."""
    weights, before = export.weights, export.table
    if not _grows(export):
        return weights
    old, new = (PrefixTree(t.target_codes, torch.arange(1, t.n_items)) for t in (before, after))
    grown = dict(weights)
    n_new = after.n_items - before.n_items
    grown[_ITEM_VECTORS] = _extended(weights[_ITEM_VECTORS], n_new, 0)
    for level in range(1, old.n_levels):
        name = f"node_vectors.levels.{level - 1}.weight"
        # An item's path leads through corresponding nodes of both trees.
        some_leaf = old.leaf_start[level + 1][:-1] if level + 1 < old.n_levels else slice(None)
        nodes = new.path(old.leaf_item[some_leaf].long())[level + 1]
        grown[name] = weights[name].new_zeros(len(new.code[level]), weights[name].size(1))
        grown[name][nodes.long()] = weights[name]
    return grown


def write(folder: Path, export: Export, what: str, command: str, **counts: int) -> Export:
    """Write an export as the next generation, which replaces the old one once it is complete.

    Args:
        what: the name of the command.
        command: the whole command, for the manifest.
        counts: numbers of items that were added, removed, ...
    """
    export = export_folder.next_generation(export, what, **counts, command=command)
    unchanged = {ENCODERS, FEATURES} & set(read_manifest(folder)["files"])
    if not _grows(export):
        unchanged.add("model")
    export_folder.write(folder, export, unchanged=unchanged)
    return export


def _grows(export: Export) -> bool:
    """Whether the weights have a row for every item."""
    return _ITEM_VECTORS in export.weights and export.learned is None


def _extended(rows: Tensor, n: int, fill: int) -> Tensor:
    """`rows` (N, ...) with n more rows that are filled with one value."""
    return torch.cat([rows, rows.new_full((n, *rows.shape[1:]), fill)])
