"""`recbole-mscgrec prepare SOURCE`: raw data to RecBole's atomic files and a data card."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mscgrec.raw_data import amazon, movielens, tables
from recbole_mscgrec.raw_data.card import facts_of, state_in, write_card
from recbole_mscgrec.raw_data.filters import Filters, kept_rows
from recbole_mscgrec.raw_data.records import BadLines, Source
from recbole_mscgrec.raw_data.spool import SPOOL_FILES, Spool, spool
from recbole_mscgrec.raw_data.values import Cleaner
from recbole_mscgrec.raw_data.writing import write_interactions, write_items
from recbole_mscgrec.storage import lock
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import check_folder, read_json, write_json, written_whole

_FORMAT = 1  # of the work folder and the written files; a change makes every data set again
# Options that do not affect the result, or whose files are part of the key.
_UNCHANGED = frozenset(
    "command source name data_path overwrite no_download raw_path from_ items max_bad_lines".split()
)
# Options that do not affect how the interactions are read.
_NOT_READ = frozenset(
    "min_user_interactions min_item_interactions min_rating repeats without_metadata item_key text"
    " number image_url".split()
)
_EPILOG = (
    "The data set is used with `--dataset=NAME --data_path=DIR`. `prepare SOURCE --help` shows the "
    "options of a source. See also: `prepare images` downloads item images, `prepare text` "
    "embeds item texts."
)

_SOURCES: dict[str, tuple[Callable[..., Source], str]] = {
    "amazon-2023": (
        amazon.source,
        "Amazon reviews 2023: review and meta .jsonl(.gz), or benchmark csv",
    ),
    "amazon-2018": (amazon.source, "Amazon reviews 2018: 5-core reviews and meta .json(.gz)"),
    "amazon-2014": (amazon.source, "Amazon reviews 2014: 5-core reviews and meta .json(.gz)"),
    "pixelrec": (tables.pixelrec_source, "PixelRec: interaction csv and item info csv"),
    "movielens": (movielens.source, "MovieLens: 100k to 32m and latest, folders or zip archives"),
    "csv": (tables.csv_source, "tables of any columns, csv or parquet"),
    "sequences": (tables.sequences_source, "text files with one user per line: user item item ..."),
}


def parser() -> argparse.ArgumentParser:
    """The command line, with a sub-parser for each source."""
    main_parser = argparse.ArgumentParser(
        prog="recbole-mscgrec prepare",
        description="Make RecBole's atomic files and a data card from raw data. Files are "
        "streamed, not loaded. After a stop, the same command continues where it was.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    subparsers = main_parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, (_, text) in _SOURCES.items():
        one = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_common(one, name)
        if name.startswith("amazon-"):
            amazon.add_options(one, name.removeprefix("amazon-"))
        elif name == "movielens":
            movielens.add_options(one)
        elif name == "csv":
            tables.add_options(one)
        elif name == "sequences":
            tables.add_sequence_options(one)
    return main_parser


def _add_common(one: argparse.ArgumentParser, name: str) -> None:
    core = amazon.K_CORE if name.startswith("amazon-") else tables.K_CORE if name == "csv" else 1
    repeats = "all" if name == "sequences" else "first"
    one.add_argument("--name", required=True, help="name of the new data set")
    one.add_argument(
        "--data_path", default="dataset", metavar="DIR", help="write to DIR/NAME (default: dataset)"
    )
    one.add_argument("--from", dest="from_", nargs="+", metavar="PATH", help="raw files or folders")
    for kind in ("user", "item"):
        text = f"drop {kind}s with fewer than N, repeatedly (default: {core})"
        one.add_argument(f"--min_{kind}_interactions", type=_count, metavar="N", help=text)
    one.add_argument("--min_rating", type=float, metavar="R", help="drop lower ratings")
    one.add_argument(
        "--repeats",
        choices=["first", "all"],
        default=repeats,
        help=f"of a user and an item: keep the first interaction, or all (default: {repeats})",
    )
    one.add_argument(
        "--max_bad_lines", type=_count, default=100, metavar="N", help="skip up to N (default: 100)"
    )
    one.add_argument("--overwrite", action="store_true", help="replace an existing data set")
    if name.startswith("amazon-") or name in ("movielens", "pixelrec"):
        one.add_argument(
            "--raw_path", metavar="DIR", help="raw files without --from (DATA_PATH/raw/SOURCE)"
        )
        one.add_argument("--no_download", action="store_true", help="only use files on this disk")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def main(arguments: list[str]) -> int:
    """Make or continue a data set, unless it is up to date. Raises UserError."""
    options = parser().parse_args(arguments)
    options.command = shlex.join(["recbole-mscgrec", "prepare", *arguments])
    name = options.name
    if (
        not name
        or name != Path(name).name
        or name.startswith(".")
        or any(c.isspace() for c in name)
    ):
        raise UserError(f"--name ({name}) must be a plain name, without folders and spaces.")
    if name == "ml-100k":
        raise UserError(
            "--name (ml-100k) cannot be used: RecBole reads its own copy of ml-100k, whatever "
            "data_path is. Choose another name."
        )
    folder = Path(options.data_path).expanduser() / name
    work = folder / ".prepare"
    try:
        cleaner = Cleaner()
        source = _source(options, cleaner)
        check_folder(folder, "data_path")
        with lock.claim(work, f"prepares {folder}"):
            made = _prepare(options, source, cleaner, folder, work)
    except KeyboardInterrupt as stop:
        told = "Stopped: the same command continues where this one was."
        raise KeyboardInterrupt(told) from stop
    except OSError as error:
        raise UserError(
            f"{error.strerror or error} ({error.filename or folder}). Finished work is kept in "
            f"{work}: the same command continues from there."
        ) from error
    print(("Made " if made else "Already up to date: ") + f"{folder}")
    print(_shown(folder / f"{name}.card.md"))
    return 0


def _source(options: argparse.Namespace, cleaner: Cleaner) -> Source:
    source = _SOURCES[options.source][0](options, cleaner)
    for file in source.files:
        if not os.access(file.path, os.R_OK):
            raise UserError(f"{file.path} cannot be read: check its permissions.")
    return source


def _prepare(
    options: argparse.Namespace, source: Source, cleaner: Cleaner, folder: Path, work: Path
) -> bool:
    """Make the data set if it is not up to date. Returns whether something was made."""
    filters = _filters(options, source)
    keys = _keys(options, source, filters)
    key = keys["all"]
    if not options.overwrite and _is_there(folder, options.name, key):
        shutil.rmtree(work, ignore_errors=True)
        return False
    before = read_json(work / "keys.json") if (work / "keys.json").is_file() else {}
    if before.get("read") != keys["read"]:
        shutil.rmtree(work, ignore_errors=True)
    elif before != keys:  # other filters or items: what was read can be reused
        for file in work.iterdir():
            if file.name not in SPOOL_FILES:
                file.unlink()
    work.mkdir(exist_ok=True)
    write_json(work / "keys.json", keys)
    _stages(options, source, cleaner, filters, folder, work, key)
    shutil.rmtree(work)
    return True


def _stages(
    options: argparse.Namespace,
    source: Source,
    cleaner: Cleaner,
    filters: Filters,
    folder: Path,
    work: Path,
    key: Any,
) -> None:
    """Run the stages. Each leaves a file in `work` when it is finished, and is not repeated."""
    bad = BadLines(options.max_bad_lines)
    spool(source, work, bad)

    def filtered() -> dict[str, Any]:
        with Spool(work) as read:
            order, steps = kept_rows(read, filters)
        with written_whole(work / "order.npy") as temporary, temporary.open("wb") as out:
            np.save(out, order)
        return {"steps": steps}

    def with_interactions() -> dict[str, Any]:
        order = np.load(work / "order.npy", mmap_mode="r", allow_pickle=False)
        with Spool(work) as read:
            whole = len(order) == len(read)
            histories = source.has_histories and whole
            files = (work / "inter", work / "items.txt")
            return write_interactions(*files, read, order, source.has_times, histories)

    def with_items() -> dict[str, Any]:
        if source.items is None:
            return {}
        found = write_items(
            work / "item", work / "item.rows", work / "items.txt", source.items, bad
        )
        return {
            "items": {**found, "cleaned": dict(cleaner.counts)},
            "bad": bad.count,
            "bad_first": bad.first,
        }

    facts: dict[str, Any] = {"bad": bad.count, "bad_first": bad.first}
    for stage in (filtered, with_interactions, with_items):
        done = work / f"{stage.__name__}.json"
        if not done.is_file():
            write_json(done, stage())
        facts |= read_json(done)
    facts |= facts_of(options, source, facts["steps"])
    _publish(options.name, folder, work, facts, key)


def _publish(name: str, folder: Path, work: Path, facts: dict[str, Any], key: Any) -> None:
    """Move the files to their place, the card last: without a card a data set is unfinished."""
    card = folder / f"{name}.card.md"
    (work / "moving").touch()  # from here on the data set in the folder is incomplete
    card.unlink(missing_ok=True)
    has_items = any(facts.get("items", {}).get("columns", {}).values())
    for kind, is_made in (("inter", True), ("item", has_items)):
        target = folder / f"{name}.{kind}"
        if (work / kind).is_file():
            os.replace(work / kind, target)
        elif not is_made:
            target.unlink(missing_ok=True)  # of an earlier data set
    sizes = {kind: _size(folder / f"{name}.{kind}") for kind in ("inter", "item")}
    write_card(card, facts, {"key": key, "sizes": sizes})


def _filters(options: argparse.Namespace, source: Source) -> Filters:
    least = (options.min_user_interactions, options.min_item_interactions)
    user, item = (source.k_core if n is None else max(n, 1) for n in least)
    return Filters(options.min_rating, options.repeats, user, item)


def _keys(options: argparse.Namespace, source: Source, filters: Filters) -> dict[str, str]:
    """Hashes of all that the read interactions ('read') and the data set ('all') depend on."""
    chosen = {k: v for k, v in vars(options).items() if k not in _UNCHANGED}
    read = {k: v for k, v in chosen.items() if k not in _NOT_READ}
    found = {
        "read": [read, [file.signature for file in source.interactions.files]],
        "all": [chosen, [file.signature for file in source.files], filters],
    }
    contents = {k: json.dumps([_FORMAT, options.source, v]) for k, v in found.items()}
    return {k: hashlib.sha256(text.encode()).hexdigest() for k, text in contents.items()}


def _is_there(folder: Path, name: str, key: Any) -> bool:
    """Whether the data set of this key exists. Raises UserError if there is another one."""
    state = state_in(folder / f"{name}.card.md")
    sizes = {kind: _size(folder / f"{name}.{kind}") for kind in ("inter", "item")}
    if state is not None and state.get("key") == key and state.get("sizes") == sizes:
        return True
    moving = (folder / ".prepare" / "moving").is_file()
    if (sizes["inter"] is not None or sizes["item"] is not None) and not moving:
        raise UserError(
            f"{folder} holds a data set {name} that was made from other files or options, or was "
            "changed since: --overwrite replaces it; or choose another --name."
        )
    return False


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _shown(card: Path) -> str:
    """The tables of the card's interactions and items."""
    text = card.read_text(encoding="utf-8")
    return text[text.index("## Interactions") : text.rindex("<!-- prepare")].strip()
