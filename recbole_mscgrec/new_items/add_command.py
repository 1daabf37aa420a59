"""`recbole-mscgrec add-items`: adds items that training never saw to an export."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from recbole_mscgrec.new_items import generations
from recbole_mscgrec.new_items.item_encoders import ItemEncoders, NewItems, Vectors, read_new_items
from recbole_mscgrec.new_items.kept_encoders import FEATURES
from recbole_mscgrec.new_items.new_codes import new_codes
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.item_tokens import ItemTokens
from recbole_mscgrec.storage.errors import UserError

_NAMED = 3  # tokens that an error names


class Added(NamedTuple):
    """What `add_items` has done, as item tokens."""

    generation: int
    added: list[str]
    restored: list[str]  # removed before, now restored with their codes
    left_out: list[str]  # already in the export, or without text, image and vector


def add_items(
    folder: str | Path,
    items: str | Path,
    images: str | Path | None = None,
    vectors: dict[str, str] | None = None,
    *,
    cold_share: float | None = None,
    skip_known: bool = False,
    skip_empty: bool = False,
    command: str = "add_items from Python",
) -> Added:
    """Add the items of an .item file to an export, as its next generation.

    New items get codes from their texts, images and given vectors, by the encoders of the export.
    The codes of all other items stay as they are. Items that were removed are restored with their
    old codes and are otherwise unchanged.

    Args:
        folder: the export folder.
        items: an .item file with the text columns of the training.
        images: folder of image files named by item token.
        vectors: modality -> file of vectors, for modalities that were trained on such files.
        cold_share: the new share of each list that goes to items added after training.
        skip_known: leave out items that are already in the export.
        skip_empty: leave out items without text, image and vector.
        command: for the record in the manifest.

    Raises:
        UserError: a file cannot be used, an item is already in the export or has no text, image or
            vector, there are too few free codes, or the folder holds no export with encoders.
    """
    folder, items = Path(folder), Path(items)
    if cold_share is not None and not 0 <= cold_share <= 1:
        raise UserError(f"cold_share ({cold_share}) must be from 0 to 1.")
    with generations.opened(folder) as export:
        encoders, tokens = ItemEncoders(folder, export), ItemTokens(export.items)
        rows = read_new_items(items, encoders.plan)
        known = [token for token in rows.tokens if token in tokens.id_of]
        back = [token for token in known if bool(export.removed[tokens.id_of[token]])]
        there = sorted(set(known) - set(back))
        if there and not skip_known:
            raise UserError(
                f"{len(there):,} items of {items} are in the export already: first "
                f"{', '.join(there[:_NAMED])}. Published items never change: take them out of the "
                "file, or add --skip_known to add the others."
            )
        rows, empty = rows.only([token not in tokens.id_of for token in rows.tokens]), list[str]()
        if rows.tokens:
            given = {name: str(file) for name, file in (vectors or {}).items()}
            found = encoders.vectors(rows, Path(images) if images else None, given)
            rows, found, empty = _with_some_modality(rows, found, skip_empty)
        if not rows.tokens and not back and cold_share in (None, export.cold_share):
            return Added(export.generation, [], [], sorted([*there, *empty]))
        if rows.tokens:
            features = export_folder.read_further(folder, FEATURES)
            made = new_codes(encoders, export.table, found, features)
            text = found["text"].vectors if "text" in found else None
            export = generations.with_items(export, rows.tokens, rows.titles, made, text)
        ids = torch.tensor([tokens.id_of[token] for token in back], dtype=torch.long)
        export = generations.with_removed(export, ids, False)
        if cold_share is not None:
            export = replace(export, cold_share=cold_share)
        counts = {"n_added": len(rows.tokens), "n_restored": len(back)}
        export = generations.write(folder, export, "add-items", command, **counts)
    return Added(export.generation, rows.tokens, back, sorted([*there, *empty]))


def _with_some_modality(
    rows: NewItems, found: dict[str, Vectors], skip_empty: bool
) -> tuple[NewItems, dict[str, Vectors], list[str]]:
    """The items that have a vector in some modality, their vectors, and the tokens of the others.

    Raises:
        UserError: there are others and `skip_empty` is off.
    """
    if not found:
        raise UserError(
            "The model was trained on interactions or given codes alone, which new items lack: to "
            "add items, train it with text, images or vectors_file."
        )
    some = torch.stack([each.present for each in found.values()]).any(dim=0)
    empty = [token for token, has in zip(rows.tokens, some.tolist(), strict=True) if not has]
    if empty and not skip_empty:
        raise UserError(
            f"{len(empty):,} items of {rows.file.path} have no usable {' or '.join(found)}: first "
            f"{', '.join(empty[:_NAMED])}. Fill in their cells or images, or add --skip_empty to "
            "leave them out."
        )
    kept = {name: Vectors(each.vectors[some], each.present[some]) for name, each in found.items()}
    return rows.only(some.tolist()), kept, empty


# --- the command ----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec add-items",
        description="Add items that training never saw to an export folder. They get codes from "
        "their texts and images; the codes of all other items stay as they are. A service that "
        "reads the folder loads the new generation.",
        allow_abbrev=False,
    )
    made.add_argument("--export", required=True, type=Path, help="the export folder")
    made.add_argument(
        "--items",
        required=True,
        type=Path,
        help="an .item file of the new items, with the text columns of the training",
    )
    made.add_argument("--images", type=Path, help="folder of image files named by item token")
    made.add_argument(
        "--vectors",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="vectors of a modality that was trained with vectors_file, in the same form",
    )
    made.add_argument(
        "--cold_share",
        type=float,
        help="share of each list of recommendations that goes to items added after training, from "
        "0 to 1; kept for later generations",
    )
    made.add_argument(
        "--skip_known", action="store_true", help="leave out items that are already in the export"
    )
    made.add_argument(
        "--skip_empty", action="store_true", help="leave out items without text, image and vector"
    )
    return made


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit status."""
    options = parser().parse_args(arguments)
    done = add_items(
        options.export,
        options.items,
        options.images,
        _pairs(options.vectors),
        cold_share=options.cold_share,
        skip_known=options.skip_known,
        skip_empty=options.skip_empty,
        command=shlex.join(["recbole-mscgrec", "add-items", *arguments]),
    )
    print(
        f"Generation {done.generation} of {options.export}: {len(done.added):,} items added, "
        f"{len(done.restored):,} restored, {len(done.left_out):,} left out."
    )
    return 0


def _pairs(given: list[str]) -> dict[str, str]:
    """NAME=FILE pairs as a dict."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise UserError(f"--vectors {text}: write NAME=FILE, such as audio=new.npz.")
        pairs[name] = file
    return pairs
