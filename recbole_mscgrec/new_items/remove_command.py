"""`recbole-mscgrec remove-items`: stops an export from recommending some of its items."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from recbole_mscgrec.new_items import generations
from recbole_mscgrec.serving.item_tokens import ItemTokens
from recbole_mscgrec.storage import files
from recbole_mscgrec.storage.errors import UserError


def remove_items(
    folder: str | Path, items: Sequence[str], command: str = "remove_items from Python"
) -> int:
    """Remove items from an export, as its next generation. Returns its number.

    They are no longer recommended, but may occur in histories. Their codes stay reserved, so
    `add_items` can restore them as they were.

    Args:
        folder: the export folder.
        items: their tokens; tokens of items that are already removed are allowed.
        command: for the record in the manifest.

    Raises:
        UserError: a token is unknown, no item would be left, or the folder holds no export.
    """
    folder = Path(folder)
    with generations.opened(folder) as export:
        ids = torch.tensor(ItemTokens(export.items).ids(items, "--items"), dtype=torch.long)
        gone = ids[~export.removed[ids]].unique()
        if not len(gone):
            return export.generation
        export = generations.with_removed(export, gone, True)
        if bool(export.removed[1:].all()):
            raise UserError(f"{folder} would have no item left: keep at least one.")
        export = generations.write(folder, export, "remove-items", command, n_removed=len(gone))
    return export.generation


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec remove-items",
        description="Stop recommending items of an export folder. They may still occur in "
        "histories, and add-items restores them with their codes.",
        allow_abbrev=False,
    )
    made.add_argument("--export", required=True, type=Path, help="the export folder")
    made.add_argument(
        "--items", required=True, type=Path, help="a file with one item token per line"
    )
    return made


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit status."""
    options = parser().parse_args(arguments)
    tokens = files.read_lines(options.items, "--items")
    command = shlex.join(["recbole-mscgrec", "remove-items", *arguments])
    generation = remove_items(options.export, tokens, command)
    print(f"Generation {generation} of {options.export}: {len(set(tokens)):,} items are removed.")
    return 0
