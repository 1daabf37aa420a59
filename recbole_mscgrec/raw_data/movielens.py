"""MovieLens: 100k, 1m, 10m, 20m, 25m, 32m, latest and latest-small, with exact times."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recbole_mscgrec.raw_data import places
from recbole_mscgrec.raw_data.cells import cells_of
from recbole_mscgrec.raw_data.records import (
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
from recbole_mscgrec.raw_data.values import Cleaner, Times
from recbole_mscgrec.storage.errors import UserError

TERMS = (
    "MovieLens is for research: no commercial use without permission, and no redistribution "
    "without permission. Cite Harper and Konstan (2015). See "
    "https://grouplens.org/datasets/movielens."
)
VERSIONS = ("100k", "1m", "10m", "20m", "25m", "32m", "latest", "latest-small")
_HOST = "https://files.grouplens.org/datasets/movielens"
# The file of ratings -> the file of movies beside it.
_PAIRS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_COLUMNS = {"title": "token_seq", "genre": "token_seq", "release_year": "token"}
_GENRES_100K = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir"
    " Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_FOLDERS = {"10m": "ml-10M100K"}  # in the archive, where it is not named after the version
_YEAR = re.compile(r"\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$")
_SECONDS = Times("s")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare movielens`."""
    parser.add_argument(
        "--version", choices=VERSIONS, help="the data set to look for or to download"
    )


def source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    """The files in --from (a folder or a zip archive), or those of --version. Raises UserError."""
    given = places.given(options)
    if given and options.version:
        raise UserError("--version is looked for or downloaded, --from names the files: give one.")
    if not given:
        if not options.version:
            raise UserError(f"Name --version ({', '.join(VERSIONS)}), or files with --from.")
        given = [_place_of(options)]
    ratings, movies = _pair(given)
    columns, separator, header = {
        "u.data": (["1", "2", "4", "3"], "\t", False),
        "ratings.dat": (["1", "2", "4", "3"], "::", False),
        "ratings.csv": (["userId", "movieId", "timestamp", "rating"], ",", True),
    }[ratings.base]

    def records(file: RawFile) -> Iterator[Record]:
        return cells_of(file, columns, separator, header=header)

    def parse(cells: Sequence[str]) -> list[Interaction]:
        return [Interaction(cells[0], cells[1], _SECONDS(cells[2]), rating_of(cells[3]))]

    notes = [
        "No k-core by default: the published files have 20 ratings per user or more. The usual "
        "protocol of papers on sequential models is --min_item_interactions 5."
    ]
    title = f"MovieLens, {ratings}"
    table = Interactions([ratings], records, parse)
    items = _movies(movies, cleaner)
    return Source(title=title, terms=TERMS, interactions=table, items=items, notes=notes)


# --- files ----------------------------------------------------------------------------------------


def _place_of(options: argparse.Namespace) -> Path:
    """The folder or archive of a version, which is downloaded if it does not exist."""
    name = f"ml-{options.version}"
    for inner in (name, _FOLDERS.get(options.version, name)):
        folder = places.raw_folder(options) / inner
        if any((folder / ratings).is_file() for ratings in _PAIRS):
            return folder
    wanted = places.Wanted([f"{name}.zip"], [f"{_HOST}/{name}.zip"], has_md5=True)
    found = places.place_of(wanted, options, TERMS)
    assert found is not None  # without --from a file is found or an error raised
    return found


def _pair(paths: list[Path]) -> tuple[RawFile, RawFile]:
    """The file of ratings and the file of movies. Raises UserError unless `paths` hold exactly one
    of each."""
    files = [file for path in paths for file in _inside(path)]
    ratings = [file for file in files if file.base in _PAIRS]
    if len(ratings) != 1:
        found = ", ".join(map(str, ratings)) or "none of them"
        raise UserError(
            f"{', '.join(map(str, paths))}: exactly one of {', '.join(_PAIRS)} is needed; found: "
            f"{found}. Name one data set's folder or zip archive with --from."
        )
    base = _PAIRS[ratings[0].base]
    movies = [file for file in files if file.base == base]
    if len(movies) != 1:
        raise UserError(f"{base} is not beside {ratings[0]}: fetch the whole archive.")
    return ratings[0], movies[0]


def _inside(path: Path) -> list[RawFile]:
    if path.suffix != ".zip":
        wanted = {*_PAIRS, *_PAIRS.values()}
        inside = [path] if path.is_file() else sorted(path.rglob("*"))
        return [RawFile(file) for file in inside if RawFile(file).base in wanted]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again.") from error
    return [RawFile(path, name) for name in names if not name.endswith("/")]


# --- movies ---------------------------------------------------------------------------------------


def _movies(file: RawFile, cleaner: Cleaner) -> Items:
    encoding = _encoding_of(file)
    n_genres = len(_GENRES_100K)
    columns, separator, header = {
        "u.item": ([str(n) for n in (1, 2, *range(6, 6 + n_genres))], "|", False),
        "movies.dat": (["1", "2", "3"], "::", False),
        "movies.csv": (["movieId", "title", "genres"], ",", True),
    }[file.base]

    def records(raw: RawFile) -> Iterator[Record]:
        return cells_of(raw, columns, separator, encoding, header, quotes=file.base != "u.item")

    def parse(cells: Sequence[str]) -> tuple[str, Callable[[], dict[str, str]]]:
        return token_of(cells[0], "the movie"), lambda: values_of(cells)

    def values_of(cells: Sequence[str]) -> dict[str, str]:
        title, year = cells[1], _YEAR.search(cells[1])
        if file.base == "u.item":
            flags = zip(_GENRES_100K, cells[2:], strict=True)
            genres = [name for name, flag in flags if flag == "1" and name != "unknown"]
        else:
            genres = [] if "(no genres" in cells[2] else cells[2].split("|")
        return {
            "title": cleaner.text(title[: year.start()] if year else title),
            "genre": cleaner.text(genres),
            "release_year": year[1] if year else "",
        }

    return Items([file], records, parse, _COLUMNS)


def _encoding_of(file: RawFile) -> str:
    """latin-1 (100k, 1m) or UTF-8 (the others); the file of movies is small enough to try."""
    try:
        for _, line in lines(file):
            line.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
