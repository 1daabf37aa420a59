"""Reads the items of a data set without RecBole, and defines the options that name the data set."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from recbole_mscgrec.config.data_fields import NAMES, find_fields, header_of
from recbole_mscgrec.config.settings import DataFiles
from recbole_mscgrec.data.atomic_files import first_of_each, read_atomic_file
from recbole_mscgrec.features.text import ItemFile, key_column
from recbole_mscgrec.storage.errors import UserError


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data set and describe the format of its files."""
    data = parser.add_argument_group("data set")
    data.add_argument("--name", required=True, help="name of the data set")
    data.add_argument(
        "--data_path",
        type=Path,
        default=Path("dataset"),
        metavar="DIR",
        help="folder that holds NAME/NAME.item (default: %(default)s)",
    )
    data.add_argument(
        "--item_column",
        metavar="COLUMN",
        help="column of the .item file with the item ids (default: found as in training)",
    )
    data.add_argument("--field_separator", default="\t", help="default: tab")
    data.add_argument(
        "--encoding", default="utf-8", help="encoding of the files (default: %(default)s)"
    )


def files_of(options: argparse.Namespace) -> DataFiles:
    """The files that the options name."""
    folder = options.data_path / options.name
    return DataFiles(folder, options.name, options.field_separator, options.encoding)


def number(kind: Callable[[str], float], low: float, high: float = math.inf) -> Callable:
    """An argparse type: a number from `low` to `high`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or math.isinf(value):
            top = f" and at most {high:,}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text} must be at least {low:g}{top}")
        return value

    parse.__name__ = kind.__name__  # argparse shows it in errors
    return parse


def read_item_file(files: DataFiles, column: str | None = None) -> ItemFile:
    """The .item file of a data set, with the first row of each item.

    The item tokens are in `column`. If it is None, the column is found as in training: it has the
    same name as in the .inter file, or it is the id column that shares the most tokens with it.

    Raises:
        UserError: there is no such file or column.
    """
    path = files.file("item")
    if not path.is_file():
        there = sorted(p.name for p in files.folder.glob("*")) if files.folder.is_dir() else []
        raise UserError(
            f"{path} does not exist; {files.folder} holds {', '.join(there[:9]) or 'nothing'}. "
            "Check --name and --data_path."
        )
    file = read_atomic_file(path, files.separator, files.encoding)
    if column is not None and column not in file.types:
        raise UserError(f"{path} has no column {column} (--item_column); it has {[*file.types]}.")
    key = column or _key(files, file.types, file.frame)
    return ItemFile(path, first_of_each(file, key).frame, file.types, key)


def _key(files: DataFiles, types: dict[str, str], frame: object) -> str:
    inter = _inter_file(files)
    wanted = {"ITEM_ID_FIELD": "item_id"}
    if inter is None:
        field = find_fields([*types], wanted).get("ITEM_ID_FIELD", "item_id")
    else:
        columns = [*header_of(inter, files.separator, files.encoding)]
        field = find_fields(columns, wanted).get("ITEM_ID_FIELD", "item_id")
    if field in types:
        return field
    if inter is None or not any(column.lower() in NAMES["ITEM_ID_FIELD"] for column in types):
        raise UserError(
            f"{files.file('item')} has no column of item ids among {[*types]}: name it with "
            "--item_column."
        )
    rows = read_atomic_file(inter, files.separator, files.encoding, [field]).frame
    return key_column(files.file("item"), frame, field, rows[field].unique().tolist())


def _inter_file(files: DataFiles) -> Path | None:
    """NAME.inter, or the first file of a data set that is split already (NAME.train.inter)."""
    whole = files.file("inter")
    parts = sorted(files.folder.glob(f"{files.name}.*.inter"))
    return whole if whole.is_file() else next(iter(parts), None)
