"""Finds raw files: in the paths that the user names, in the folder of downloads, or online."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

from recbole_mscgrec.storage import transfer
from recbole_mscgrec.storage.errors import UserError

PARTS = ("train", "valid", "test")
CATEGORIES_2023 = (
    "All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products"
    " Beauty_and_Personal_Care Books CDs_and_Vinyl Cell_Phones_and_Accessories"
    " Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards Grocery_and_Gourmet_Food"
    " Handmade_Products Health_and_Household Health_and_Personal_Care Home_and_Kitchen"
    " Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV"
    " Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software"
    " Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement Toys_and_Games Unknown"
    " Video_Games"
).split()
_HOSTS_2023 = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023",
)
_HOSTS_2018 = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    "https://jmcauley.ucsd.edu/data/amazon_v2",
)
_HOST_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


class Wanted(NamedTuple):
    """A raw file: its possible names, and the addresses at which its authors publish it."""

    names: list[str]
    addresses: list[str]
    has_md5: bool = False  # ADDRESS.md5 holds the checksum


def given(options: argparse.Namespace) -> list[Path]:
    """The files and folders of --from.

    Raises:
        UserError: one of them does not exist.
    """
    paths = [Path(path).expanduser() for path in options.from_ or ()]
    for path in paths:
        if not path.exists():
            near = difflib.get_close_matches(path.name, _names(path.parent), n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"--from: {path} does not exist.{hint}")
    return paths


def files_in(paths: Sequence[Path], endings: tuple[str, ...]) -> list[Path]:
    """The files among the paths, and those with one of the endings in the folders among them.

    Raises:
        UserError: there is none.
    """
    found = [
        file
        for path in paths
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file() and (path.is_file() or _fits(file.relative_to(path), endings))
    ]
    if not found:
        named = ", ".join(map(str, paths))
        raise UserError(f"--from: {named} holds no file that ends with {' or '.join(endings)}.")
    return list(dict.fromkeys(found))


def place_of(wanted: Wanted, options: argparse.Namespace, terms: str) -> Path | None:
    """The file in --from; without --from, the file in --raw_path, which is downloaded if it does
    not exist. None if it is not in --from.

    Raises:
        UserError: there are several; or it cannot be downloaded (the message says what to fetch
            from where).
    """
    folders = [path for path in given(options) if path.is_dir()]
    for path in given(options):
        if path.is_file() and path.name in wanted.names:
            return path
    for folder in folders or [raw_folder(options)]:
        for name in wanted.names:
            found = sorted(folder.rglob(name))
            if len(found) > 1:
                raise UserError(
                    f"{folder} holds several files {name}: {', '.join(map(str, found[:3]))}. Name "
                    "the right one, or its folder, with --from."
                )
            if found:
                return found[0]
    if options.from_:
        return None
    return _downloaded(wanted, raw_folder(options), options.no_download, terms)


def of_amazon(year: str, category: str, benchmark: str | None) -> list[Wanted]:
    """The raw files of a category of Amazon reviews, the metadata last."""
    if year == "2023":
        names = {
            None: [f"raw/review_categories/{category}.jsonl"],
            "rating_only": [f"benchmark/5core/rating_only/{category}.csv"],
            "last_out_w_his": [
                f"benchmark/5core/last_out_w_his/{category}.{part}.csv" for part in PARTS
            ],
        }[benchmark]
        names = [*names, f"raw/meta_categories/meta_{category}.jsonl"]
        return [_on_hosts(name, _HOSTS_2023) for name in names]
    if year == "2018":
        names = [f"categoryFilesSmall/{category}_5.json", f"metaFiles2/meta_{category}.json"]
        return [_on_hosts(name, _HOSTS_2018) for name in names]
    names = [f"reviews_{category}_5.json", f"meta_{category}.json"]
    return [_on_hosts(name, (_HOST_2014,)) for name in names]


def _on_hosts(name: str, hosts: tuple[str, ...]) -> Wanted:
    base = Path(name).name
    return Wanted([f"{base}.gz", base], [f"{host}/{name}.gz" for host in hosts])


def raw_folder(options: argparse.Namespace) -> Path:
    """The folder in which raw files are looked for, and to which they are downloaded."""
    if options.raw_path:
        return Path(options.raw_path).expanduser()
    return Path(options.data_path).expanduser() / "raw" / str(options.source)


def missing(wanted: Wanted, folder: Path, reason: str, terms: str) -> UserError:
    """The error that says what to fetch from where and where to put it."""
    return UserError(
        f"{wanted.names[0]} is not in {folder}{reason}. Fetch it from "
        f"{' or '.join(wanted.addresses)} and put it into {folder}, or name its place with --from. "
        f"Terms: {terms}"
    )


def _downloaded(wanted: Wanted, folder: Path, no_download: bool, terms: str) -> Path:
    if no_download:
        raise missing(wanted, folder, " (--no_download)", terms)
    getLogger().warning(f"{terms}")
    reasons = []
    for address in wanted.addresses:
        file = folder / address.rpartition("/")[2]
        getLogger().warning(f"Downloading {address} into {folder}.")
        md5 = transfer.text_at(f"{address}.md5") if wanted.has_md5 else ""
        try:
            transfer.fetch(address, file, md5=_md5_in(md5))
        except UserError as error:
            reasons.append(f"{address}: {error}")
        else:
            return file
    raise missing(wanted, folder, f", and it cannot be downloaded ({'; '.join(reasons)})", terms)


def _md5_in(text: str) -> str:
    """The checksum in the output of md5sum (Linux) or md5 (BSD); '' if there is none."""
    words = text.replace("=", " ").split()
    sums = [w for w in words if len(w) == 32 and set(w.lower()) <= set("0123456789abcdef")]
    return sums[0] if sums else ""


def _fits(file: Path, endings: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in file.parts)  # such as the work folder
    return file.name.endswith(endings) and not hidden


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
