"""Image files as we store them: small RGB JPEGs, named by item token."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from recbole_mscgrec.features.images import decode, formats
from recbole_mscgrec.storage.errors import one_line

_QUALITY = 90
_LONGEST_NAME = 255 - 24  # bytes; while a file is written, its temporary name is longer
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<!--")


class NoImage(Exception):
    """A file cannot be used as an image; the text says why."""


def as_jpeg(content: bytes, size: int) -> bytes:
    """Convert the content of an image file of any format to an RGB JPEG whose longer side is at
    most `size` pixels: the first frame, upright, transparent parts white.

    Raises:
        NoImage: the content is not an image, is damaged, or has more pixels than Pillow allows.
    """
    begin = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not content:
        raise NoImage("empty file")
    if begin.startswith(_MARKUP):
        raise NoImage("an HTML page instead of an image")
    if begin.startswith((b"<svg", b"<?xml")):
        raise NoImage("SVG or XML, which is not read")
    try:
        image = decode(io.BytesIO(content))
    except UnidentifiedImageError:
        raise NoImage("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise NoImage("more pixels than Pillow's limit") from None
    except Exception as error:  # Pillow's readers raise errors of many types
        raise NoImage(f"damaged image: {one_line(error, 80) or type(error).__name__}") from error
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=_QUALITY)
    return stored.getvalue()


def fault_of_name(token: str) -> str:
    """Why a file cannot have an item token as its name, as in `image_dir`; '' if it can."""
    name = f"{token}.jpg"
    if not token or "\0" in token or Path(name).name != name or Path(name).stem != token:
        return "the item id cannot be a file name"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        return "the item id is too long for a file name"
    return ""


def images_in(folder: Path) -> dict[str, str]:
    """Item token -> name of its image in a folder, the first by name. Empty files are ignored."""
    found: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.name)
            if path.suffix.lower() in formats() and entry.is_file() and entry.stat().st_size:
                found[path.stem] = min(entry.name, found.get(path.stem, entry.name))
    return found
