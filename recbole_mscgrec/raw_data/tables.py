"""Data of any origin: csv or parquet tables, and text files with one user per line; and PixelRec,
which is published as such tables."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from recbole_mscgrec.raw_data import places
from recbole_mscgrec.raw_data.cells import cells_of, codec_of, table_cells
from recbole_mscgrec.raw_data.records import (
    BadLine,
    Interaction,
    Interactions,
    Items,
    RawFile,
    Record,
    Source,
    lines,
    rating_of,
    token_of,
)
from recbole_mscgrec.raw_data.values import Cleaner, Times, address_of
from recbole_mscgrec.storage.errors import UserError

K_CORE = 5
_KEY = "item_id"  # the column of the item in the .item file
_ENDINGS = tuple(f".{kind}{gz}" for kind in ("csv", "tsv", "txt", "dat") for gz in ("", ".gz"))
_ENDINGS += (".parquet",)
_LISTED = re.compile(r"\S+([,;|])\s+(\S+\1\s+)*\S+")  # such as `u, a, b`
_PIXELREC_TERMS = (
    "PixelRec is for non-commercial research; modified data must not be redistributed. See "
    "https://github.com/westlake-repl/PixelRec, which also links the files on Google Drive."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare csv`."""
    parser.add_argument("--user", required=True, metavar="COL", help="column of the user")
    parser.add_argument("--item", required=True, metavar="COL", help="column of the item")
    parser.add_argument(
        "--time", metavar="COL", help="column of the time; without it, the order of the rows counts"
    )
    parser.add_argument("--rating", metavar="COL", help="column of the rating")
    parser.add_argument(
        "--time_unit",
        choices=["auto", "s", "ms", "us", "ns"],
        default="auto",
        help="unit of times that are numbers (default: detected from the first time)",
    )
    parser.add_argument(
        "--time_format", metavar="F", help="format of dates that are not ISO, like '%%d/%%m/%%Y'"
    )
    add_item_options(parser)


def add_sequence_options(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare sequences`."""
    parser.add_argument(
        "--no_user",
        action="store_true",
        help="lines hold items only, without the user first; the line number is the user",
    )
    add_item_options(parser)


def add_item_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a table of items and how csv files are written."""
    parser.add_argument("--items", nargs="+", metavar="FILE", help="table of the items")
    parser.add_argument(
        "--item_key", metavar="COL", help="its column of item ids (default: that of --item)"
    )
    parser.add_argument("--text", nargs="+", metavar="COL", default=[], help="its texts")
    parser.add_argument("--number", nargs="+", metavar="COL", default=[], help="columns of numbers")
    parser.add_argument("--image_url", metavar="COL", help="its column of image addresses")
    parser.add_argument(
        "--separator", help="between columns (default: detected from the header); \\t is a tab"
    )
    parser.add_argument("--encoding", default="utf-8", help="of csv files (default: utf-8)")
    parser.add_argument("--no_quotes", action="store_true", help="quotes are ordinary characters")
    parser.add_argument(
        "--no_header", action="store_true", help="the first row is data; columns are 1, 2, 3, ..."
    )


def csv_source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    """The tables that --from and --items name. Raises UserError."""
    _check_min_rating(options)
    paths = places.given(options)
    if not paths:
        raise UserError("Name the table of interactions with --from.")
    files = [RawFile(path) for path in places.files_in(paths, _ENDINGS)]
    chosen = [options.user, options.item]
    chosen += [column for column in (options.time, options.rating) if column]
    table, times = _interactions(
        files,
        lambda file: _cells(file, chosen, options),
        Times(options.time_unit, options.time_format) if options.time else None,
        bool(options.rating),
    )
    notes = [f"Times: {times.described}." if times else "The rows are in the order of time."]
    return Source(
        title="tables of your own",
        terms="your own data",
        interactions=table,
        items=items_of(options, cleaner),
        notes=notes,
        k_core=K_CORE,
        has_times=times is not None,
    )


def sequences_source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    """The files that --from names. Raises UserError."""
    _check_min_rating(options)
    paths = places.given(options)
    if not paths:
        raise UserError("Name the file of sequences with --from.")
    separator, codec = _separator(options), codec_of(options.encoding)

    def records(file: RawFile) -> Iterator[Record]:
        for number, line in lines(file):
            yield number, ([str(number)] if options.no_user else [], line)

    def parse(record: tuple[list[str], bytes]) -> list[Interaction]:
        first, line = record
        try:
            text = line.decode(codec)
        except UnicodeDecodeError as error:
            raise BadLine(f"bytes that are not {codec}: name --encoding.") from error
        if separator is None and (found := _LISTED.fullmatch(text.strip())):
            raise BadLine(f"every id but the last ends with {found[1]!r}: use --separator.")
        user, *items = [*first, *text.strip().split(separator)]
        if not items:
            raise BadLine("a line is `user item item ...`, but this one has no item.")
        return [Interaction(user, item, None) for item in items]

    files = [RawFile(path) for path in places.files_in(paths, _ENDINGS)]
    table = Interactions(files, records, parse)
    notes = ["The items of a line are in the order of time; timestamp is the position."]
    return Source(
        title="sequences, one user per line",
        terms="your own data",
        interactions=table,
        items=items_of(options, cleaner),
        notes=notes,
        has_times=False,
    )


def pixelrec_source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    """PixelRec's table of interactions and its table of items. Raises UserError."""
    _check_min_rating(options)
    paths = places.given(options) or [places.raw_folder(options)]
    if not paths[0].exists():
        raise UserError(
            f"PixelRec is not in {paths[0]}. Fetch its interaction csv, its item info csv and its "
            "covers from https://github.com/westlake-repl/PixelRec (Google Drive) and put them "
            f"there, or name their place with --from. Terms: {_PIXELREC_TERMS}"
        )
    by_kind: dict[bool, list[RawFile]] = {True: [], False: []}
    for path in places.files_in(paths, (".csv", ".csv.gz")):
        header = next(lines(RawFile(path)), (0, b""))[1]
        by_kind[b"user_id" in header].append(RawFile(path))
    if len(by_kind[True]) != 1:
        raise UserError(
            f"{', '.join(map(str, paths))}: exactly one csv file must have the columns item_id, "
            f"user_id and timestamp, but {len(by_kind[True])} have: name the files with --from."
        )
    table, times = _interactions(
        by_kind[True],
        lambda file: cells_of(file, ["user_id", "item_id", "timestamp"], ","),
        Times("s"),
        False,
    )
    texts = ["title", "tag", "description"]
    items = _items(
        by_kind[False],
        lambda file: cells_of(file, ["item_id", *texts], ","),
        {name: "token_seq" for name in texts},
        cleaner,
    )
    notes = [
        f"Times: {times.described}." if times else "",
        "Covers: `recbole-mscgrec prepare images --folder COVERS` makes images of the covers.",
        "view_number and the other counts are left out: they include later interactions.",
    ]
    return Source(
        title="PixelRec",
        terms=_PIXELREC_TERMS,
        interactions=table,
        items=items if by_kind[False] else None,
        notes=notes,
    )


def _check_min_rating(options: argparse.Namespace) -> None:
    """Raise UserError for --min_rating without ratings: it would drop all interactions."""
    if options.min_rating is None or getattr(options, "rating", None):
        return
    needs = f"ratings, and {options.source} has none: leave it out"
    if "rating" in options:
        needs = "--rating: name the column of the rating, or leave --min_rating out"
    raise UserError(f"--min_rating ({options.min_rating:g}) needs {needs}.")


def items_of(options: argparse.Namespace, cleaner: Cleaner) -> Items | None:
    """The table of --items, or None. Raises UserError."""
    chosen = {_name(column): "token_seq" for column in options.text}
    chosen |= {_name(column): "float" for column in options.number}
    chosen |= {"image_url": "token"} if options.image_url else {}
    for option, named in (("--text", options.text), ("--number", options.number)):
        for column in named:
            if _name(column) == _KEY:
                raise UserError(
                    f"{option} ({column}) cannot be {_KEY}: the .item file uses this name for the "
                    "item ids. Rename the column in the table, or leave it out; --item_key names "
                    "the column of item ids."
                )
    columns = [*options.text, *options.number, *[options.image_url] * bool(options.image_url)]
    if len(chosen) < len(columns):
        raise UserError(f"Columns of --items are named twice: {', '.join(columns)}.")
    if not options.items:
        if columns or options.item_key:
            raise UserError("--text, --number, --image_url and --item_key need --items FILE.")
        return None
    key = options.item_key or getattr(options, "item", None)
    if not columns or not key:
        raise UserError("--items needs --item_key, and columns: --text, --number or --image_url.")
    found = argparse.Namespace(**{**vars(options), "from_": options.items})
    files = [RawFile(path) for path in places.files_in(places.given(found), _ENDINGS)]
    return _items(files, lambda file: _cells(file, [key, *columns], options), chosen, cleaner)


# --- what the cells mean --------------------------------------------------------------------------

Reader = Callable[[RawFile], Iterator[Record]]


def _interactions(
    files: list[RawFile], records: Reader, times: Times | None, has_rating: bool
) -> tuple[Interactions, Times | None]:
    """The interactions of tables whose cells are user, item and, if they exist, time and rating.
    The unit of times is detected here, so that an interrupted reading continues with the same."""

    def parse(cells: Sequence[Any]) -> list[Interaction]:
        time = None if times is None else times(cells[2])
        rating = rating_of(cells[-1]) if has_rating else float("nan")
        return [Interaction(cells[0], cells[1], time, rating)]

    for file in files:
        for _, cells in islice(records(file), 1000):
            try:
                if times is not None and not isinstance(cells, BadLine):
                    times(cells[2])
            except BadLine:
                continue
    return Interactions(files, records, parse), times


def _items(
    files: list[RawFile], records: Reader, columns: dict[str, str], cleaner: Cleaner
) -> Items:
    def parse(cells: Sequence[Any]) -> tuple[str, Callable[[], dict[str, str]]]:
        return token_of(cells[0], "the item"), lambda: values_of(cells)

    def values_of(cells: Sequence[Any]) -> dict[str, str]:
        named = zip(columns.items(), cells[1:], strict=True)
        return {name: value_of(name, kind, _plain(cell)) for (name, kind), cell in named}

    def value_of(name: str, kind: str, cell: Any) -> str:
        if kind == "float":
            return cleaner.number(cell, name)
        return cleaner.text(cell) if kind == "token_seq" else address_of(cell)

    return Items(files, records, parse, columns)


def _cells(file: RawFile, columns: list[str], options: argparse.Namespace) -> Iterator[Record]:
    separator = _separator(options)
    header, quotes = not options.no_header, not options.no_quotes
    return table_cells(file, columns, separator, options.encoding, header, quotes)


def _separator(options: argparse.Namespace) -> str | None:
    return options.separator.replace("\\t", "\t") if options.separator else None


def _plain(cell: Any) -> Any:
    """The cell, with None for NaN."""
    return None if isinstance(cell, float) and cell != cell else cell


def _name(column: str) -> str:
    """A column's name without characters that an atomic file cannot hold."""
    return re.sub(r"\W+", "_", column).strip("_") or "column"
