"""Amazon reviews of 2023, 2018 and 2014, as their authors publish them."""

from __future__ import annotations

import argparse
import ast
import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recbole_mscgrec.raw_data import places
from recbole_mscgrec.raw_data.cells import cells_of
from recbole_mscgrec.raw_data.places import PARTS
from recbole_mscgrec.raw_data.records import (
    BadLine,
    Interaction,
    Interactions,
    Items,
    RawFile,
    Record,
    Source,
    json_object,
    lines,
    rating_of,
    token_of,
)
from recbole_mscgrec.raw_data.values import Cleaner, Times, address_of, price_of
from recbole_mscgrec.storage.errors import UserError

TERMS = (
    "Amazon reviews are published by the McAuley lab (UCSD) for research. See "
    "https://amazon-reviews-2023.github.io and https://jmcauley.ucsd.edu/data/amazon for the terms "
    "and the papers to cite."
)
K_CORE = 5
_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz")
_COLUMNS_2023 = {
    "title": "token_seq",
    "features": "token_seq",
    "description": "token_seq",
    "store": "token_seq",
    "categories": "token_seq",
    "main_category": "token_seq",
    "price": "float",
    "image_url": "token",
}
_COLUMNS_OLDER = {**_COLUMNS_2023, "brand": "token_seq"}
del _COLUMNS_OLDER["store"]
_ALT = re.compile(r'<img [^>]*alt="([^"]*)"', re.IGNORECASE)


def add_options(parser: argparse.ArgumentParser, year: str) -> None:
    """The options of one of the three data sets."""
    parser.add_argument(
        "--category", nargs="+", metavar="CAT", help="one or more categories, such as All_Beauty"
    )
    parser.add_argument(
        "--without_metadata", action="store_true", help="write no .item file: no texts, no images"
    )
    if year == "2023":
        parser.add_argument(
            "--benchmark",
            choices=["rating_only", "last_out_w_his"],
            help="read the authors' 5-core csv files instead of the reviews; no filter is applied "
            "unless you set one, and leave-one-out then gives the authors' split",
        )


def source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    """The files of the categories, or those named with --from. Raises UserError."""
    year = options.source.removeprefix("amazon-")
    files = _files_of_categories(options, year) if options.category else _files_given(options)
    kinds: dict[str, list[RawFile]] = {}
    for path in files:
        raw = RawFile(path)
        kinds.setdefault(_kind(raw), []).append(raw)
    reviews, benchmark = kinds.get("reviews", []), kinds.get("benchmark", [])
    if reviews and benchmark:
        raise UserError(
            f"{reviews[0]} and {benchmark[0]} hold the same data in two forms: name the files of "
            "only one of them with --from."
        )
    if reviews and getattr(options, "benchmark", None):
        raise UserError(f"{reviews[0]} holds reviews: --benchmark reads the authors' csv files.")
    if not reviews and not benchmark:
        raise UserError(f"{', '.join(map(str, files))}: none of these holds reviews.")
    meta = kinds.get("metadata", [])
    if not meta and not options.without_metadata:
        raise UserError(
            f"There is no metadata beside {(reviews or benchmark)[0]}: add the meta_ file of its "
            "category, or use --without_metadata; the data set then has no texts and no images."
        )
    columns = _COLUMNS_2023 if year == "2023" else _COLUMNS_OLDER
    items = None
    if not options.without_metadata:
        items = Items(meta, lines, _metadata(year, cleaner), columns)
    title = f"Amazon reviews {year}"
    notes = (
        []
        if items is None
        else ["average_rating and rating_number count later reviews, so they are left out."]
    )
    if benchmark:
        table, with_histories = _benchmark(benchmark)
        return Source(
            title=f"{title}, 5-core files of the authors",
            terms=TERMS,
            interactions=table,
            items=items,
            notes=notes,
            has_histories=with_histories,
        )
    review = _review_2023 if year == "2023" else _review_older
    table = Interactions(reviews, lines, review)
    return Source(
        title=title, terms=TERMS, interactions=table, items=items, notes=notes, k_core=K_CORE
    )


# --- files ----------------------------------------------------------------------------------------


def _files_given(options: argparse.Namespace) -> list[Path]:
    paths = places.given(options)
    if not paths:
        raise UserError("Name --category, such as All_Beauty, or files or a folder with --from.")
    return places.files_in(paths, _ENDINGS)


def _files_of_categories(options: argparse.Namespace, year: str) -> list[Path]:
    found: list[Path] = []
    for category in options.category:
        if not re.fullmatch(r"[\w-]+", category):
            raise UserError(f"--category ({category}) is a name such as All_Beauty.")
        if year == "2023" and not options.from_ and category not in places.CATEGORIES_2023:
            near = difflib.get_close_matches(category, places.CATEGORIES_2023, n=3, cutoff=0.3)
            raise UserError(
                f"--category ({category}) is not one of 2023. Did you mean {' or '.join(near)}?"
                if near
                else f"--category ({category}) must be one of {', '.join(places.CATEGORIES_2023)}."
            )
        wanted = places.of_amazon(year, category, getattr(options, "benchmark", None))
        if options.without_metadata:
            wanted = wanted[:-1]
        for one in wanted:
            place = places.place_of(one, options, TERMS)
            if place is None:
                folder = Path(options.from_[0])
                raise places.missing(one, folder, "", TERMS)
            found.append(place)
    return found


def _kind(file: RawFile) -> str:
    """reviews, metadata or benchmark, by the first line."""
    _, line = next(lines(file), (0, b""))
    if line.lstrip()[:1] != b"{":
        if b"user_id" in line and b"parent_asin" in line:
            return "benchmark"
        raise UserError(f"{file}, line 1 is neither JSON nor the header of a benchmark file.")
    try:
        keys = _dict_of(line).keys()
    except BadLine:
        return "metadata" if file.base.startswith("meta_") else "reviews"
    return "reviews" if keys & {"user_id", "reviewerID"} else "metadata"


# --- reviews --------------------------------------------------------------------------------------

_MILLISECONDS, _SECONDS = Times("ms"), Times("s")


def _review_2023(line: bytes) -> list[Interaction]:
    found = json_object(line)
    time = _MILLISECONDS(found.get("timestamp"))
    user, item = found.get("user_id"), found.get("parent_asin")
    return [Interaction(user, item, time, rating_of(found.get("rating")))]  # type: ignore[arg-type]


def _review_older(line: bytes) -> list[Interaction]:
    found = _dict_of(line)
    time = _SECONDS(found.get("unixReviewTime"))
    user, item = found.get("reviewerID"), found.get("asin")
    return [Interaction(user, item, time, rating_of(found.get("overall")))]  # type: ignore[arg-type]


def _benchmark(files: list[RawFile]) -> tuple[Interactions, bool]:
    """The interactions of the authors' csv files, and whether these files hold histories.
    The order is train, valid, test, so that interactions of the same time keep their order."""
    parts = {part: [f for f in files if f".{part}." in f.path.name] for part in PARTS}
    in_parts = [file for part in PARTS for file in parts[part]]
    if in_parts and (len(in_parts) < len(files) or len({len(f) for f in parts.values()}) > 1):
        raise UserError(
            f"{', '.join(f.base for f in files)}: the authors' split has the files CAT.train, "
            "CAT.valid and CAT.test of each category: name these files and no others."
        )
    header = {file: next(lines(file))[1] for file in files}
    with_histories = all(b"history" in line for line in header.values())
    columns = ["user_id", "parent_asin", "timestamp", "rating"] + ["history"] * with_histories

    def records(file: RawFile) -> Iterator[Record]:
        return cells_of(file, columns, ",")

    def parse(cells: tuple[str, ...]) -> list[Interaction]:
        user, item, time, rating, *histories = cells
        before = histories[0].split()[-1:] if histories else []
        previous = before[0] if before else ""
        return [Interaction(user, item, _MILLISECONDS(time), rating_of(rating), previous)]

    return Interactions(in_parts or files, records, parse), with_histories


# --- metadata -------------------------------------------------------------------------------------


def _dict_of(line: bytes) -> dict[str, Any]:
    """A line as JSON, or as a Python literal, which older files hold. Raises BadLine."""
    try:
        return json_object(line)
    except BadLine as error:
        try:
            found = ast.literal_eval(line.decode())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise error from None
        if not isinstance(found, dict):
            raise
        return found


def _metadata(
    year: str, cleaner: Cleaner
) -> Callable[[bytes], tuple[str, Callable[[], dict[str, str]]]]:
    """The parser of metadata lines."""
    key, values_of = ("parent_asin", _values_2023) if year == "2023" else ("asin", _values_older)
    read = json_object if year == "2023" else _dict_of

    def parse(line: bytes) -> tuple[str, Callable[[], dict[str, str]]]:
        found = read(line)
        return token_of(found.get(key), key), lambda: values_of(found, cleaner)

    return parse


def _values_2023(found: dict[str, Any], cleaner: Cleaner) -> dict[str, str]:
    return {
        "title": cleaner.text(found.get("title")),
        "features": cleaner.text(found.get("features")),
        "description": cleaner.text(found.get("description")),
        "store": cleaner.text(found.get("store")),
        "categories": cleaner.text(found.get("categories"), ", "),
        "main_category": cleaner.text(found.get("main_category")),
        "price": price_of(found.get("price")),
        "image_url": _main_image(found.get("images")),
    }


def _main_image(images: Any) -> str:
    """The address of the MAIN image, else of the first one; its high-resolution version, else the
    large one, else the thumbnail."""
    pictures = [i for i in images if isinstance(i, dict)] if isinstance(images, list) else []
    ordered = sorted(pictures, key=lambda picture: picture.get("variant") != "MAIN")
    for picture in ordered:
        found = address_of(picture.get("hi_res"), picture.get("large"), picture.get("thumb"))
        if found:
            return found
    return ""


def _values_older(found: dict[str, Any], cleaner: Cleaner) -> dict[str, str]:
    title, main = found.get("title"), str(found.get("main_cat") or "")
    if isinstance(title, str) and "getTime" in title:  # a script of the page instead of a title
        title = None
    alternative = _ALT.search(main)  # in 2018 some names are a picture
    return {
        "title": cleaner.text(title),
        "features": cleaner.text(found.get("feature")),
        "description": cleaner.text(found.get("description")),
        "brand": cleaner.text(found.get("brand")),
        "categories": cleaner.text(found.get("category") or found.get("categories"), ", "),
        "main_category": cleaner.text(alternative[1] if alternative else main),
        "price": price_of(found.get("price")),
        "image_url": address_of(
            found.get("imageURLHighRes"), found.get("imageURL"), found.get("imUrl")
        ),
    }
