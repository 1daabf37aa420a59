"""`recbole-mscgrec prepare images`: fetches the images of items once, before training."""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

from tqdm import tqdm

import recbole_mscgrec
from recbole_mscgrec.features.images import LONGEST_SIDE
from recbole_mscgrec.features.text import ItemFile
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.item_content.fetch import Failures, fetch, from_folder, from_network
from recbole_mscgrec.item_content.http_get import Getter
from recbole_mscgrec.item_content.items import add_data_options, files_of, number, read_item_file
from recbole_mscgrec.item_content.pictures import images_in
from recbole_mscgrec.item_content.schedule import Schedule
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import check_folder

_ABOUT = """
Downloads the images of items from the addresses in a column of the .item file, or takes them from a
folder of files named by item id. The images are reduced to --size pixels and stored as
DIR/NAME/images/ITEM.jpg, where training looks for them.

Existing images are skipped, so a stopped run can be resumed. Failures and their reasons are listed
in DIR/NAME/NAME.images-failed.csv.

The program does not read robots.txt and cannot know what a site allows. It is up to you to find out
whether you may download these images, and at which rate, and to set --per_host, --host_pause,
--workers and --user_agent accordingly. The program waits if a server answers 429 or 503 with
Retry-After.
"""


def main(arguments: list[str]) -> int:
    """Run the command. Returns 0, or 1 if the data set has no image afterwards."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    files = files_of(options)
    items = read_item_file(files, options.item_column)
    folder = files.folder / "images"
    check_folder(folder, "--data_path")
    wanted = _from_folder(options, items) if options.folder else _from_column(options, items)

    there = images_in(folder)
    n_there = sum(item in there for item in items.frame[items.key])
    n_without = sum(item not in there and item not in wanted for item in items.frame[items.key])
    failures = Failures(files.folder / f"{files.name}.images-failed.csv")
    before = {
        item: failure
        for item, failure in failures.read().items()
        if item not in there and failure.url == wanted.get(item)
    }
    failures.of |= before
    kept = {i for i, failure in before.items() if failure.lasting and not options.retry_failed}
    to_do = [(i, source) for i, source in wanted.items() if i not in there and i not in kept]
    to_do = to_do[: options.limit]

    with warnings.catch_warnings(), tqdm(total=len(to_do), desc="Images", unit="") as bar:
        warnings.simplefilter("ignore")  # Pillow warns about unusual files that it can read
        n_fetched = _fetch(options, to_do, folder, failures, bar)
    counts = failures.counts()
    print(
        f"images in {folder}: {n_fetched} fetched, {n_there} already there, {n_without} items "
        f"without one, {len(failures.of)} failed{' (' if counts else ''}"
        f"{', '.join(f'{reason}: {n}' for reason, n in counts)}{')' if counts else ''}"
        + (f"; see {failures.file}" if counts else "")
    )
    return 0 if n_fetched or n_there else 1


def _fetch(
    options: argparse.Namespace,
    to_do: list[tuple[str, str]],
    folder: Path,
    failures: Failures,
    bar: tqdm,
) -> int:
    if options.folder:
        schedule = Schedule(options.workers, 0.0, 0, 0.0, 0.0)
        work = from_folder(folder, options.size)
        return fetch(
            to_do, work, schedule, options.workers, failures, bar.update, host=lambda source: ""
        )
    getter = Getter(options.timeout, options.max_bytes, options.user_agent)
    schedule = Schedule(
        options.per_host,
        options.host_pause,
        options.retries,
        options.backoff,
        options.longest_wait,
    )
    work = from_network(getter, folder, options.size)
    return fetch(to_do, work, schedule, options.workers, failures, bar.update, getter.stop)


def _from_column(options: argparse.Namespace, items: ItemFile) -> dict[str, str]:
    """Item -> address, for the items that have one."""
    column = options.url_column
    if column not in items.types:
        raise UserError(
            f"{items.path} has no column {column} (--url_column); it has {[*items.types]}. Name "
            "the column of addresses, or take the images from a folder with --folder."
        )
    pairs = zip(items.frame[items.key], items.frame[column].map(_address), strict=True)
    found = {item: address for item, address in pairs if address}
    if not found:
        raise UserError(f"{items.path}: column {column} (--url_column) names no image.")
    return found


def _address(cell: str) -> str:
    """The first address of a cell, which may hold a list."""
    first, comma, rest = clean_text(cell).partition(", http")
    return first.strip()


def _from_folder(options: argparse.Namespace, items: ItemFile) -> dict[str, str]:
    """Item -> file, for the items that have one."""
    source, target = options.folder, options.data_path / options.name / "images"
    if not source.is_dir():
        raise UserError(f"--folder ({source}) is not a folder: check the path.")
    if source.resolve() == target.resolve():
        raise UserError(
            f"--folder ({source}) is the folder that the images are written to: name another "
            "folder, or skip this command, since training reads images in any size."
        )
    names = images_in(source)
    found = {i: str(source / names[i]) for i in items.frame[items.key] if i in names}
    if not found:
        raise UserError(
            f"{source} (--folder) holds {len(names)} images, but none is named after an item: its "
            f"first files are {sorted(names.values())[:3]}, the first items are "
            f"{items.frame[items.key].head(3).tolist()}. Name them ITEM.jpg (or .png, ...)."
        )
    return found


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec prepare images",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_data_options(made)
    source = made.add_argument_group("images")
    source.add_argument(
        "--url_column",
        default="image_url",
        metavar="COLUMN",
        help="column of the .item file with the addresses (default: %(default)s)",
    )
    source.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="take the images from this folder of files ITEM.jpg, ITEM.png, ... instead",
    )
    source.add_argument(
        "--size",
        type=number(int, 1, LONGEST_SIDE),
        default=256,
        help="maximum length of the longer side in pixels; smaller images keep their size "
        "(default: %(default)s)",
    )
    source.add_argument(
        "--limit", type=number(int, 1), help="fetch at most this many images, for a trial run"
    )
    source.add_argument(
        "--retry_failed",
        action="store_true",
        help="also retry images that the CSV file lists as lasting failures (404, HTML, damaged)",
    )
    net = made.add_argument_group("network")
    ours = f"recbole-mscgrec/{recbole_mscgrec.__version__}"
    for name, kind, default, meaning in (
        ("workers", number(int, 1, 256), 8, "number of parallel downloads"),
        ("per_host", number(int, 1, 256), 2, "number of parallel downloads from the same host"),
        ("host_pause", number(float, 0), 0.1, "minimum seconds between two requests to a host"),
        ("retries", number(int, 0, 100), 4, "tries after the first one, for temporary failures"),
        ("backoff", number(float, 0), 1.0, "seconds before the second try; doubled each time"),
        (
            "longest_wait",
            number(float, 0),
            300.0,
            "longest pause in seconds that a host may ask for; a host that asks for more gets no "
            "requests until the next run",
        ),
        ("timeout", number(float, 0.1), 20.0, "seconds to connect, and again for the whole file"),
        ("max_bytes", number(int, 1), 20_000_000, "maximum size of a file in bytes"),
        ("user_agent", str, ours, "User-Agent header; add how to contact you"),
    ):
        net.add_argument(
            f"--{name}", type=kind, default=default, help=f"{meaning} (default: %(default)s)"
        )
    return made
