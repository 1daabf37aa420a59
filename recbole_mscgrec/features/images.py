"""Item images: files of `image_dir` matched to items, every one decoded once as a check."""

from __future__ import annotations

import json
import os
import warnings
from collections import defaultdict
from functools import cache as once
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from recbole.utils import set_color
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from recbole_mscgrec.config.settings import DataFiles, ImageSettings, RunSettings
from recbole_mscgrec.storage import cache, files
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_LONGEST_SIDE = 1024  # pixels; larger images are reduced, crops need no more
_BATCH = 32  # files that a process checks at a time
_NAMED = 3  # offenders that a warning names


class ItemImages(Dataset):
    """Decoded RGB images of the n items that have a usable one.

    Attributes:
        items: long (n,) ascending item ids.
        paths: their files.
        digests: hashes of the files' content.
    """

    def __init__(self, items: Tensor, paths: list[Path], digests: list[str]) -> None:
        self.items, self.paths, self.digests = items, paths, digests

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """Raises UserError for a file that was damaged or removed since it was checked: going on
        would store codes of another picture."""
        try:
            return load_image(self.paths[index])
        except Exception as error:  # as in _Check
            raise UserError(
                f"{self.paths[index]} could be read when this run began and cannot now ({error}): "
                "restore it, or run again to go on without it."
            ) from error


def find_images(
    images: ImageSettings, files: DataFiles, run: RunSettings, dataset: Any
) -> ItemImages | None:
    """The usable images of a data set's items; None without `image_dir` and without images/ in the
    data set's folder.

    A file belongs to the item whose token is its name without extension. Of several usable ones the
    first by name is taken. What cannot be used is counted in one warning, and the item lacks an
    image. The check is remembered per file's size and time in `cache_dir`.

    Raises:
        UserError: image_dir does not exist, or no file there is named like an item.
    """
    folder = expected_folder(images, files)
    if not folder.is_dir():
        if images.dir:
            raise UserError(f"image_dir ({folder}) is not a folder: check the path.")
        return None
    by_item = _files_of_items(folder, dataset)
    names_of_all = [name for names in by_item.values() for name in names]
    digests, defects = _check(names_of_all, folder, n_workers(images), run)
    usable = {item: [n for n in names if n in digests] for item, names in by_item.items()}
    _warn(usable, defects)
    items = sorted(item for item, names in usable.items() if names)
    getLogger().info(
        f"image: {len(items)} of {dataset.item_num - 1} items have a usable image in {folder}."
    )
    chosen = [usable[item][0] for item in items]
    paths = [folder / name for name in chosen]
    return ItemImages(torch.tensor(items, dtype=torch.long), paths, [digests[n] for n in chosen])


def expected_folder(images: ImageSettings, files: DataFiles) -> Path:
    """Where images are looked for: `image_dir`, or images/ beside the .inter file."""
    return Path(images.dir or files.folder / "images")


def n_workers(images: ImageSettings) -> int:
    """Processes that decode images: `image_workers`, at most one per core."""
    return min(images.workers, _n_cores())


def _n_cores() -> int:
    """Cores that this process may use, which a container or taskset can make fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- one image ------------------------------------------------------------------------------------


def load_image(path: Path) -> Image.Image:
    """The first frame as RGB, upright, on white where transparent, at most 1,024 pixels long.

    Raises:
        Exception: of whatever kind Pillow has for a file that it cannot decode to the end, and
            DecompressionBombWarning above its limit of pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd files that it reads all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=sorted(set(_formats().values()))) as image:
            image.draft(None, (_LONGEST_SIDE, _LONGEST_SIDE))  # JPEG: decode at a smaller scale
            image = _to_rgb(ImageOps.exif_transpose(image))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return image


@once
def _formats() -> dict[str, str]:
    """Extension -> format of what Pillow opens, but EPS: it would be run by Ghostscript."""
    known = Image.registered_extensions()
    return {e: kind for e, kind in known.items() if kind in Image.OPEN and kind != "EPS"}


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        # More than 8 bits: Pillow would cut at 255 where the range has to be scaled.
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        low, high = (values.min(), values.max()) if image.mode == "F" else (0, 65535)
        scaled = 255 * ((values - low) / max(high - low, 1e-12)).clip(0, 1)
        image = Image.fromarray(scaled.astype(np.uint8))
    return image.convert("RGB")


# --- all of them ----------------------------------------------------------------------------------


def _files_of_items(folder: Path, dataset: Any) -> dict[int, list[str]]:
    """Item id -> its files' names, sorted."""
    ids = dataset.field2token_id[dataset.iid_field]
    entries = [e.name for e in os.scandir(folder) if e.is_file()]
    names = sorted(name for name in entries if Path(name).suffix.lower() in _formats())
    files: dict[int, list[str]] = defaultdict(list)
    for name in names:
        if ids.get(Path(name).stem, 0):  # 0 is padding
            files[ids[Path(name).stem]].append(name)
    if not files:
        raise UserError(
            f"{folder} holds {len(names)} images and none is named like an item of the data set: "
            f"its first files are {names[:_NAMED]}, the first items "
            f"{[str(t) for t in list(ids)[1 : 1 + _NAMED]]}. "
            "Name them ITEM.jpg (or .png, ...), or leave image out of `modalities`."
        )
    return files


class _Check(Dataset):
    """Per file a hash of its content, and why it cannot be used ('' if it can)."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, str]:
        path = self.paths[index]
        try:
            if path.stat().st_size == 0:
                return "", "empty file"
            digest = cache.fingerprint(file=path)
            load_image(path)
        except Exception as error:  # Pillow's readers raise errors of any kind
            reason = str(error).replace(str(path), path.name) or type(error).__name__
            return "", reason[:120]
        return digest, ""


def _check(
    names: list[str], folder: Path, workers: int, run: RunSettings
) -> tuple[dict[str, str], dict[str, str]]:
    """Usable file -> hash of its content, and unusable file -> reason. Only files that are new or
    changed since the last run are decoded."""
    key = cache.fingerprint(folder=str(folder.resolve()), pillow=PIL.__version__)
    store = Path(run.cache_dir) / f"image-check-{key}.json"
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or damaged: check all
        known = {}
    stats = {name: (folder / name).stat() for name in names}
    states = {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}
    new = [name for name in names if known.get(name, [None])[0] != states[name]]
    if new:
        found = _check_in_processes([folder / name for name in new], workers, run)
        known |= {n: [states[n], *result] for n, result in zip(new, found, strict=True)}
        files.write_json(store, known)
    results = {name: known[name][1:] for name in names}
    digests = {name: digest for name, (digest, defect) in results.items() if not defect}
    return digests, {name: defect for name, (_, defect) in results.items() if defect}


def _check_in_processes(paths: list[Path], workers: int, run: RunSettings) -> list[tuple[str, str]]:
    """`_Check` of all paths, in their order."""
    loader = DataLoader(
        _Check(paths),
        batch_size=_BATCH,
        collate_fn=list,
        num_workers=workers if len(paths) > _BATCH else 0,
        generator=torch.Generator(),  # not the global one: a check must not change what follows
    )
    bar = tqdm(
        total=len(paths),
        ncols=100,
        desc=set_color("Images    ", "pink"),
        disable=not run.show_progress,
    )
    found = []
    for batch in loader:
        found += batch
        bar.update(len(batch))
    bar.close()
    return found


def _warn(usable: dict[int, list[str]], defects: dict[str, str]) -> None:
    """One warning for all that is not as expected."""
    parts = []
    if defects:
        first = "; ".join(f"{name}: {defects[name]}" for name in list(defects)[:_NAMED])
        n_lacking = sum(not names for names in usable.values())
        parts.append(
            f"{len(defects)} files cannot be used, which leaves {n_lacking} items without an image "
            f"({first})"
        )
    several = [names[0] for names in usable.values() if len(names) > 1]
    if several:
        first = ", ".join(several[:_NAMED])
        parts.append(f"{len(several)} items have several files; the first name counts ({first})")
    if parts:
        getLogger().warning(f"image: {'. '.join(parts)}.")
