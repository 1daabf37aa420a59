"""Image files as they are stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from image_server import image_bytes
from PIL import Image

from recbole_mscgrec.features.images import load_image
from recbole_mscgrec.item_content.pictures import NoImage, as_jpeg, fault_of_name, images_in

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def near(image: Image.Image, colour: tuple[int, ...], at: tuple[int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(image.getpixel(at), colour, strict=True))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 800), (256, 128)), ((300, 900), (85, 256)), ((256, 10), (256, 10)), ((8, 5), (8, 5))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_longer_side_is_reduced_and_never_enlarged(
    kind: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert opened(as_jpeg(image_bytes(kind, size), 256)).size == expected


def test_kinds_of_images_become_upright_rgb() -> None:
    cmyk = stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert near(opened(as_jpeg(cmyk, 99)), RED, (4, 4))
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert near(opened(as_jpeg(stored(clear, "PNG"), 99)), WHITE, (4, 4))
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "WEBP"):
        moving = stored(frames[0], kind, save_all=True, append_images=frames[1:])
        assert near(opened(as_jpeg(moving, 99)), RED, (4, 4)), kind
    halves = Image.new("RGB", (64, 32), RED)
    halves.paste(BLUE, (0, 0, 64, 16))
    exif = halves.getexif()
    exif[0x0112] = 6  # turned: the upper half becomes the right half
    turned = opened(as_jpeg(stored(halves, "JPEG", exif=exif, quality=95), 99))
    assert turned.size == (32, 64) and near(turned, RED, (3, 30)) and near(turned, BLUE, (28, 30))
    assert not turned.getexif()  # else readers would turn it again


def huge() -> bytes:
    return stored(Image.new("1", (9500, 9500)), "PNG")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\xef\xbb\xbf\n <HTML lang=en>", "an HTML page instead of an image"),
        (b"<?xml version='1.0'?><svg/>", "SVG or XML, which is not read"),
        (b"not found", "not an image"),
        (image_bytes("JPEG", (300, 200))[:-300], "damaged image: "),
        (image_bytes("PNG", (300, 200))[:-100], "damaged image: "),
        (stored(Image.new("RGB", (8, 8)), "EPS"), "not an image"),  # Ghostscript would run it
        (huge, "more pixels than Pillow's limit"),
    ],
    ids=["empty", "html", "svg", "text", "half a jpeg", "half a png", "eps", "bomb"],
)
def test_what_is_no_image_is_told_by_its_content(content: Any, reason: str) -> None:
    with pytest.raises(NoImage) as refused:
        as_jpeg(content() if callable(content) else content, 256)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("token", ["1", "B00X", "a b", "a.b", ".x", "ü", "..", "x" * 200])
def test_names_that_image_dir_finds(tmp_path: Path, token: str) -> None:
    assert fault_of_name(token) == ""
    (tmp_path / f"{token}.jpg").write_bytes(as_jpeg(image_bytes(), 9))
    assert images_in(tmp_path) == {token: f"{token}.jpg"}
    assert load_image(tmp_path / f"{token}.jpg").size == (9, 7)


@pytest.mark.parametrize("token", ["a/b", "/a", "../a", "", "a\0b", "x" * 252, "ü" * 120])
def test_names_that_no_file_can_have(token: str) -> None:
    assert fault_of_name(token)


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.jpg", "b.PNG", "a.webp", "c.txt", "d.jpg.17.tmp"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "e.jpg").touch()
    (tmp_path / "f.jpg").mkdir()
    assert images_in(tmp_path) == {"b": "b.PNG", "a": "a.webp"}
