"""Downloads data sets from RecBole's server, completely or not at all."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from logging import getLogger
from pathlib import Path, PurePosixPath

import yaml
from recbole.utils import url
from tqdm import tqdm

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

_URLS = Path(url.__file__).parent.parent / "properties" / "dataset" / "url.yaml"
_ASK_ABOVE = 1 << 30  # bytes, as RecBole does
_BLOCK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


def fetch(folder: Path, name: str) -> bool:
    """Download a data set that RecBole knows by name into `folder`, unless the folder exists.

    Returns:
        Whether something was downloaded.

    Raises:
        UserError: RecBole does not know the name (similar names are suggested), there is no
            network, or the download is incomplete. `folder` is not created then.
    """
    if folder.exists():
        return False
    address = _address(folder, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    getLogger().info(f"Downloading {name} from {address}.")
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as place:
        archive, unpacked = Path(place) / "data.zip", Path(place) / name
        try:
            _download(address, archive)
            _unpack(archive, unpacked, PurePosixPath(address).stem, name)
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(
                f"{_where(folder, name)} Downloading it from {address} failed: {error}."
            ) from error
        try:
            os.replace(unpacked, folder)
        except OSError:
            if not folder.is_dir():
                raise
            getLogger().info(f"Another process downloaded {name} meanwhile.")
    getLogger().info(f"Downloaded {name} into {folder}.")
    return True


def with_data(make: Callable[[], Config]) -> Config:
    """The Config that `make` returns. If its data set is missing, it is downloaded, and the Config
    is made again, because it depends on the columns of the files.

    Raises:
        UserError: see `fetch`.
    """
    with processes.one_after_the_other():
        config = make()
        return make() if fetch(Path(config["data_path"]), config["dataset"]) else config


def known_names() -> dict[str, str]:
    """Name -> address of every data set that RecBole can download."""
    return yaml.safe_load(_URLS.read_text(encoding="utf-8"))


def _address(folder: Path, name: str) -> str:
    known = known_names()
    if name in known:
        return known[name]
    beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
    near = difflib.get_close_matches(name, [*known, *beside, "ml-100k"], n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"{_where(folder, name)} RecBole knows no download for this name.{hint}")


def _where(folder: Path, name: str) -> str:
    beside = sorted(path.name for path in folder.parent.glob("[!.]*") if path.is_dir())
    return (
        f"Data set {name!r} is not in {folder.parent} (there: {', '.join(beside) or 'nothing'}). "
        f"Put {name}.inter and {name}.item into {folder} or point data_path at the folder that "
        f"holds {name}/; ml-100k comes with RecBole and needs no file."
    )


def _download(address: str, file: Path) -> None:
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as source, file.open("wb") as target:
        size = int(source.headers.get("Content-Length") or 0)
        _check_size(size, file.parent)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc="Download") as bar:
            while block := source.read(_BLOCK):
                target.write(block)
                bar.update(len(block))
    got = file.stat().st_size
    if size and got != size:
        raise UserError(f"{got:,} of {size:,} bytes arrived: the connection broke; try again")


def _check_size(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if 4 * size > free:  # the archive, and about three times its size unpacked
        raise UserError(f"it has {size:,} bytes and {folder.parent} only {free:,} free")
    if size > _ASK_ABOVE and sys.stdin is not None and sys.stdin.isatty():
        answer = input(f"This will download {size / (1 << 30):.1f} GB. Continue? (y/N) ")
        if answer.strip().lower() not in ("y", "yes"):
            raise UserError("it was declined")


def _unpack(archive: Path, folder: Path, stem: str, name: str) -> None:
    """Unpack the atomic files, which are named after the archive, as `name`.SUFFIX."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as stored:
        damaged = stored.testzip()
        if damaged is not None:
            raise UserError(f"{damaged} in the archive is damaged")
        for member in stored.infolist():
            base = PurePosixPath(member.filename).name
            if member.is_dir() or not base or base.startswith("."):
                continue
            renamed = name + base[len(stem) :] if base.startswith(f"{stem}.") else base
            with stored.open(member) as source, (folder / renamed).open("wb") as target:
                shutil.copyfileobj(source, target)
    found = sorted(path.name for path in folder.iterdir())
    if not any(file.startswith(f"{name}.") and file.endswith(".inter") for file in found):
        raise UserError(f"the archive holds {found} and no {stem}.inter")
