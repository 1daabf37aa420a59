"""Is the data there, and does it have what sequential models need? Asked before anything slow."""

from __future__ import annotations

import os
from logging import getLogger
from pathlib import Path
from typing import Any
from urllib.error import URLError

import yaml
from recbole.utils import ModelType, url


def check_data(config: Any) -> None:
    """Fetch a data set that RecBole knows and is not here; check its columns.

    Raises:
        ValueError: no such data set, no network, or no timestamp, item or user column.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    inter = folder / f"{name}.inter"
    if not folder.exists():
        _download(folder, name)
    if config["benchmark_filename"] is not None:
        return
    if not inter.is_file():
        raise ValueError(f"{inter} does not exist: put the data set's atomic files into {folder}.")
    with inter.open(encoding=config["encoding"] or "utf-8") as file:
        header = file.readline().rstrip("\n")
    columns = [c.split(":")[0] for c in header.split(config["field_separator"])]
    needed = ["USER_ID_FIELD", "ITEM_ID_FIELD"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["eval_args"]["order"] == "TO":
        needed.append("TIME_FIELD")
    for key in needed:
        if config[key] not in columns:
            raise ValueError(
                f"{inter} has no column {config[key]!r} ({key}); it has {', '.join(columns)}. "
                f"Name the right one with --{key}=..., or add the column."
            )
    loaded = (config["load_col"] or {}).get("inter", columns)
    if config["TIME_FIELD"] not in loaded and "TIME_FIELD" in needed:
        raise ValueError(
            f"load_col reads {loaded} of {inter} but not {config['TIME_FIELD']!r} (TIME_FIELD), "
            "which orders the sequences: add it to load_col."
        )


def _download(folder: Path, name: str) -> None:
    links = Path(url.__file__).parent.parent / "properties" / "dataset" / "url.yaml"
    known = yaml.safe_load(links.read_text(encoding="utf-8"))
    beside = sorted(p.name for p in folder.parent.glob("*") if p.is_dir()) or ["nothing"]
    where = (
        f"Data set {name!r} is not in {folder.parent} (there: {', '.join(beside)}). "
        f"Put {name}.inter and {name}.item into {folder} or point data_path at the folder that "
        f"holds {name}/; ml-100k comes with RecBole and needs no file."
    )
    if name not in known:
        raise ValueError(f"{where} RecBole knows no download for this name.")
    try:
        if not url.decide_download(known[name]):
            raise ValueError(f"{where} The download was declined.")
        url.makedirs(str(folder))
        archive = url.download_url(known[name], str(folder))
    except (URLError, RuntimeError, OSError) as error:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise ValueError(f"{where} Downloading it from {known[name]} failed: {error}.") from error
    url.extract_zip(archive, str(folder))
    os.unlink(archive)
    url.rename_atomic_files(str(folder), Path(archive).stem, name)
    getLogger().info(f"Downloaded {name} into {folder}.")
