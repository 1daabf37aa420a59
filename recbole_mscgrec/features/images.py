"""Item images: the files in `image_dir` are matched to items, and each is decoded once as a
check."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from functools import cache as once
from logging import getLogger
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from recbole.utils import set_color
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from recbole_mscgrec.config.settings import DataFiles, ImageSettings, RunSettings
from recbole_mscgrec.storage import cache, digest, files, schema
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
LONGEST_SIDE = 1024  # pixels; larger images are reduced, because crops need no more
_BATCH = 32  # files per task of a worker that checks files
_NAMED = 3  # number of files that a warning names


class ItemImages(Dataset):
    """Decoded RGB images of the n items that have a usable one.

    Attributes:
        items: long (n,) ascending item ids.
        paths: the files of these items.
        digests: hashes of the files' content.
    """

    def __init__(self, items: Tensor, paths: list[Path], digests: list[str]) -> None:
        self.items, self.paths, self.digests = items, paths, digests

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """The image of an item. Raises UserError if the file was damaged or removed after the
        check, because its codes would be wrong."""
        try:
            return load_image(self.paths[index])
        except Exception as error:  # see _Check
            raise UserError(
                f"{self.paths[index]} was readable when this run started, but is no longer "
                f"({error}): restore it, or run again to continue without it."
            ) from error


def find_images(
    images: ImageSettings, files: DataFiles, run: RunSettings, dataset: Any
) -> ItemImages | None:
    """The usable images of the items; None if `image_dir` is not set and the folder of the data set
    has no images/.

    A file belongs to the item whose token is its name without extension. If an item has several
    usable files, the first by name is used. One warning counts the unusable files. The result of
    the check is cached in `cache_dir` by file size and modification time.

    Raises:
        UserError: image_dir does not exist, or none of its files is named after an item.
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
    """The folder of images: `image_dir`, or images/ beside the .inter file."""
    return Path(images.dir or files.folder / "images")


def n_workers(images: ImageSettings, n_processes: int = 1) -> int:
    """Number of workers that decode images: `image_workers`, but at most one per core. Processes on
    the same machine share the cores."""
    return min(images.workers, max(1, _n_cores() // n_processes))


def _n_cores() -> int:
    """Number of cores that this process may use, which a container or taskset can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- one image ------------------------------------------------------------------------------------


def load_image(path: Path) -> Image.Image:
    """The first frame of an image file as RGB: upright, transparent parts white, at most 1,024
    pixels wide and high.

    Raises:
        Exception: Pillow cannot decode the file completely (it raises many types), or the image
            exceeds Pillow's limit of pixels (DecompressionBombWarning).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about odd files that Pillow can read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return decode(path)


def decode(source: Path | BinaryIO) -> Image.Image:
    """As `load_image`, but thread-safe: the warning filters, which all threads share, are not
    changed. Too many pixels raise DecompressionBombError."""
    with Image.open(source, formats=sorted(set(formats().values()))) as image:
        pixels = image.width * image.height
        if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{pixels:,} pixels, more than Pillow's limit")
        image.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # JPEG: decode at a smaller scale
        image = _to_rgb(ImageOps.exif_transpose(image))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


@once
def formats() -> dict[str, str]:
    """Extension -> format of the files that Pillow can open. EPS is left out, because Ghostscript
    would execute it."""
    known = Image.registered_extensions()
    return {e: kind for e, kind in known.items() if kind in Image.OPEN and kind != "EPS"}


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        # More than 8 bits: scale the values, which Pillow would clip at 255.
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        low, high = (values.min(), values.max()) if image.mode == "F" else (0, 65535)
        scaled = 255 * ((values - low) / max(high - low, 1e-12)).clip(0, 1)
        image = Image.fromarray(scaled.astype(np.uint8))
    return image.convert("RGB")


# --- all of them ----------------------------------------------------------------------------------


def _files_of_items(folder: Path, dataset: Any) -> dict[int, list[str]]:
    """Item id -> sorted names of its files."""
    ids = dataset.field2token_id[dataset.iid_field]
    entries = [e.name for e in os.scandir(folder) if e.is_file()]
    names = sorted(name for name in entries if Path(name).suffix.lower() in formats())
    files: dict[int, list[str]] = defaultdict(list)
    for name in names:
        if ids.get(Path(name).stem, 0):  # 0 is padding
            files[ids[Path(name).stem]].append(name)
    if not files:
        raise UserError(
            f"{folder} holds {len(names)} images, but none is named after an item of the data set: "
            f"its first files are {names[:_NAMED]}, the first items are "
            f"{[str(t) for t in list(ids)[1 : 1 + _NAMED]]}. "
            "Name them ITEM.jpg (or .png, ...), or leave image out of `modalities`."
        )
    return files


class _Check(Dataset):
    """For each file, a hash of its content and why it cannot be used ('' if it can)."""

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
        except Exception as error:  # Pillow's readers raise errors of many types
            reason = str(error).replace(str(path), path.name) or type(error).__name__
            return "", reason[:120]
        return digest, ""


def _check(
    names: list[str], folder: Path, workers: int, run: RunSettings
) -> tuple[dict[str, str], dict[str, str]]:
    """Two dicts: usable file -> hash of its content; unusable file -> reason. Only files that are
    new, or have changed since the last run, are decoded."""
    key = cache.fingerprint(folder=str(folder.resolve()), pillow=PIL.__version__, format=2)
    store = Path(run.cache_dir) / f"image-check-{key}.json"
    known = _known_checks(store)
    stats = {name: (folder / name).stat() for name in names}
    states = {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}
    new = [name for name in names if known.get(name, [None])[0] != states[name]]
    if new:
        found = _check_in_processes([folder / name for name in new], workers, run)
        known |= {n: [states[n], *result] for n, result in zip(new, found, strict=True)}
        files.write_json(store, digest.sealed({"files": known}))
    results = {name: known[name][1:] for name in names}
    digests = {name: digest for name, (digest, defect) in results.items() if not defect}
    return digests, {name: defect for name, (_, defect) in results.items() if defect}


def _known_checks(store: Path) -> dict[str, Any]:
    """File -> [[size, time], hash, reason], as stored by the last run. A store that cannot be used
    is set aside."""
    if not store.is_file():
        return {}
    try:
        content = files.read_json(store)
        schema.check(content, schema.IMAGE_CHECK, store, "a check of images")
        if digest.changed(content):
            raise UserError(f"{store} differs from the checksum that was written with it")
    except UserError as error:
        files.set_aside(store, str(error))
        return {}
    return content["files"]


def _check_in_processes(paths: list[Path], workers: int, run: RunSettings) -> list[tuple[str, str]]:
    """The results of `_Check` for all paths, in order."""
    loader = DataLoader(
        _Check(paths),
        batch_size=_BATCH,
        collate_fn=list,
        num_workers=workers if len(paths) > _BATCH else 0,
        generator=torch.Generator(),  # otherwise the check would affect later random draws
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
    """One warning for all unexpected files."""
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
        parts.append(f"{len(several)} items have several files; the first is used ({first})")
    if parts:
        getLogger().warning(f"image: {'. '.join(parts)}.")
