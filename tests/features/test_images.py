"""Item images: what is read, how it is decoded, what is skipped, and what is decoded only once."""

from __future__ import annotations

import io
import json
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from recbole.data import create_dataset
from tiny import dino_settings, settings, typed

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.settings import ImageSettings
from recbole_mscgrec.features import images
from recbole_mscgrec.features.images import ItemImages, find_images, load_image, n_workers

REAL = Path("/work/shared/dataset")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def found_images(config: Config, train: Any) -> ItemImages | None:
    chosen = typed(config, train)
    return find_images(chosen.images, chosen.files, chosen.run, train)


def found(folder: Path, **changes: Any) -> ItemImages | None:
    config = Config("MSCGRec", "rule", config_dict=settings(folder, image_workers=0, **changes))
    return found_images(config, create_dataset(config).build()[0])


@pytest.fixture
def posters(rule_folder: Path) -> Path:
    """The images/ folder of the rule data set, with a picture of 6 items."""
    folder = rule_folder / "data" / "rule" / "images"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 12), (40 * i, 0, 0)).save(folder / f"i{i}.png")
    return folder


def tokens_of(folder: Path, loaded: ItemImages) -> list[str]:
    config = Config("MSCGRec", "rule", config_dict=settings(folder))
    data = create_dataset(config).build()[0]
    return [data.id2token("item_id", i) for i in loaded.items.tolist()]


# --- one image ------------------------------------------------------------------------------------


def saved(path: Path, image: Image.Image, **options: Any) -> Image.Image:
    image.save(path, **options)
    return load_image(path)


def near(image: Image.Image, colour: tuple[int, ...], at: tuple[int, int] = (2, 2)) -> bool:
    pixel = image.getpixel(at)
    return image.mode == "RGB" and all(abs(a - b) <= 4 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_common_formats_keep_their_colour(tmp_path: Path, extension: str) -> None:
    assert near(saved(tmp_path / f"a.{extension}", Image.new("RGB", (8, 8), RED)), RED)


def test_grey_and_one_bit(tmp_path: Path) -> None:
    assert near(saved(tmp_path / "a.png", Image.new("L", (8, 8), 90)), (90, 90, 90))
    assert near(saved(tmp_path / "b.png", Image.new("1", (8, 8), 1)), WHITE)


def test_cmyk(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow
    assert near(saved(tmp_path / "a.tiff", image), RED)
    assert near(saved(tmp_path / "a.jpg", image), RED)


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    values = np.full((8, 8), 90 * 257, dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        assert near(saved(tmp_path / name, Image.fromarray(values)), (90, 90, 90)), name
    ramp = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    image = saved(tmp_path / "float.tiff", Image.fromarray(ramp))
    assert near(image, (0, 0, 0), (0, 0)) and near(image, WHITE, (7, 7))


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *BLUE])
    assert near(saved(tmp_path / "a.png", image), BLUE)
    assert near(saved(tmp_path / "b.gif", image, transparency=1), WHITE)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (8, 8))  # black and fully transparent
    image.paste(Image.new("RGBA", (8, 4), (0, 0, 0, 255)).convert(mode), (0, 4))
    loaded = saved(tmp_path / "a.png", image)
    assert near(loaded, WHITE, (2, 1)) and near(loaded, (0, 0, 0), (2, 6))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    for name in ("a.gif", "a.webp", "a.png"):
        options = {"save_all": True, "append_images": frames[1:]}
        assert near(saved(tmp_path / name, frames[0], **options), RED), name


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), RED)
    image.paste(BLUE, (0, 0, 16, 4))  # the upper half
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise: the upper half becomes the right half
    loaded = saved(tmp_path / "a.jpg", image, exif=exif, quality=100, subsampling=0)
    assert loaded.size == (8, 16)
    assert loaded.getpixel((1, 8))[0] > 200 and loaded.getpixel((6, 8))[2] > 200


def test_large_images_are_reduced_in_proportion(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        assert saved(tmp_path / name, Image.new("RGB", (4100, 2050), RED)).size == (1024, 512)
    assert saved(tmp_path / "thin.png", Image.new("RGB", (5000, 1))).size == (1024, 1)


def test_eps_is_not_opened(tmp_path: Path) -> None:
    """Pillow would hand it to Ghostscript, whatever the file is called."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="cannot identify"):
        load_image(tmp_path / "a.jpg")


# --- what cannot be used --------------------------------------------------------------------------


def half_of(extension: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, extension)
    return file.getvalue()[: len(file.getvalue()) // 2]


def bomb(side: int) -> bytes:
    """A square PNG of so many pixels a side in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "text": (lambda: b"<html>404 not found</html>", "cannot identify image file"),
    "half a jpeg": (lambda: half_of("JPEG"), "truncated"),
    "half a png": (lambda: half_of("PNG"), "truncated|broken|incomplete"),
    "half a webp": (lambda: half_of("WEBP"), "."),
    "half a gif": (lambda: half_of("GIF"), "truncated|not enough"),
    "bomb at which Pillow raises": (lambda: bomb(100_000), "10000000000 pixels"),
    "bomb at which Pillow warns": (lambda: bomb(10_000), "100000000 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_file_is_skipped_with_its_reason(
    rule_folder: Path, posters: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = BAD[kind]
    (posters / "i3.png").write_bytes(content())
    loaded = found(rule_folder)
    assert sorted(tokens_of(rule_folder, loaded)) == ["i0", "i1", "i2", "i4", "i5"]
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "1 files cannot be used, which leaves 1 items without an image" in warning
    assert re.search(f"i3.png: .*({reason})", warning), warning


def test_one_warning_for_many_files(
    rule_folder: Path, posters: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(10, 20):
        (posters / f"i{i}.jpg").write_bytes(b"")
    loaded = found(rule_folder)
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "10 files cannot be used" in warning and "i12.jpg" in warning
    assert "i13.jpg" not in warning and len(loaded) == 6


def test_first_usable_of_several_files(
    rule_folder: Path, posters: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (4, 4), BLUE).save(posters / "i1.gif")  # before i1.png
    Image.new("RGB", (4, 4), BLUE).save(posters / "i2.webp")  # behind i2.png
    (posters / "i3.bmp").write_bytes(b"")  # before i3.png, and unusable
    loaded = found(rule_folder)
    chosen = {path.stem: path.suffix for path in loaded.paths}
    assert (chosen["i1"], chosen["i2"], chosen["i3"]) == (".gif", ".png", ".png")
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "2 items have several files" in warning and "leaves 0 items without" in warning


def test_what_is_no_image_of_an_item_is_not_opened(rule_folder: Path, posters: Path) -> None:
    (posters / "i7.txt").write_text("no image")
    (posters / "other.jpg").write_bytes(b"")
    (posters / "[PAD].jpg").write_bytes(b"")
    (posters / "i8.jpg").mkdir()
    (posters / "i9.JPG").write_bytes((posters / "i1.png").read_bytes())
    loaded = found(rule_folder)
    assert sorted(tokens_of(rule_folder, loaded)) == ["i0", "i1", "i2", "i3", "i4", "i5", "i9"]


def test_no_usable_image_at_all(rule_folder: Path, posters: Path) -> None:
    for file in posters.iterdir():
        file.write_bytes(b"")
    assert len(found(rule_folder)) == 0


# --- the folder -----------------------------------------------------------------------------------


def test_images_stand_at_their_items(rule_folder: Path, posters: Path) -> None:
    loaded = found(rule_folder)
    assert len(loaded) == 6 and loaded.items.dtype == torch.long
    assert loaded.items.tolist() == sorted(loaded.items.tolist())
    for index, token in enumerate(tokens_of(rule_folder, loaded)):
        assert loaded.paths[index] == posters / f"{token}.png"
        assert loaded[index].getpixel((0, 0)) == (40 * int(token[1:]), 0, 0)


def test_image_dir_elsewhere(rule_folder: Path, posters: Path) -> None:
    (rule_folder / "posters").mkdir()
    Image.new("RGB", (8, 8)).save(rule_folder / "posters" / "i29.png")
    loaded = found(rule_folder, image_dir=str(rule_folder / "posters"))
    assert tokens_of(rule_folder, loaded) == ["i29"]


def test_no_folder_is_no_images(rule_folder: Path) -> None:
    assert found(rule_folder) is None


def test_folders_that_cannot_be_right(rule_folder: Path, posters: Path) -> None:
    with pytest.raises(ValueError, match=r"image_dir \(nowhere\) is not a folder"):
        found(rule_folder, image_dir="nowhere")
    for file in posters.iterdir():
        file.rename(posters / f"B0{file.name}")
    with pytest.raises(
        ValueError, match=r"6 images, but none.*'B0i0.png'.*the first items are \['i0'"
    ):
        found(rule_folder)


# --- checked once, in processes -------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    original = images.load_image

    def record(path: Path) -> Image.Image:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(images, "load_image", record)
    return names


def test_second_run_decodes_only_what_changed(
    rule_folder: Path, posters: Path, decoded: list[str]
) -> None:
    first = found(rule_folder)
    assert sorted(decoded) == [f"i{i}.png" for i in range(6)]
    del decoded[:]
    second = found(rule_folder)
    assert decoded == [] and second.digests == first.digests and second.paths == first.paths
    Image.new("RGB", (9, 9), BLUE).save(posters / "i2.png")
    Image.new("RGB", (9, 9), BLUE).save(posters / "i9.png")
    third = found(rule_folder)
    assert sorted(decoded) == ["i2.png", "i9.png"] and len(third) == 7
    changed = dict(zip(third.paths, third.digests, strict=True))
    same = [changed[p] == d for p, d in zip(first.paths, first.digests, strict=True)]
    assert same.count(False) == 1


def test_an_unusable_file_is_remembered_and_still_reported(
    rule_folder: Path, posters: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (posters / "i3.png").write_bytes(b"no image")
    found(rule_folder)
    del decoded[:]
    caplog.clear()
    assert len(found(rule_folder)) == 5 and decoded == [] and "i3.png" in caplog.text


def test_a_damaged_record_of_the_check_is_made_again(
    rule_folder: Path, posters: Path, decoded: list[str]
) -> None:
    found(rule_folder)
    (store,) = (rule_folder / "cache").glob("image-check-*.json")
    assert len(json.loads(store.read_text())["files"]) == 6
    store.write_text("{")
    del decoded[:]
    assert len(found(rule_folder)) == 6 and len(decoded) == 6
    assert len(json.loads(store.read_text())["files"]) == 6


def test_digests_survive_copying_and_follow_the_content(rule_folder: Path, posters: Path) -> None:
    first = found(rule_folder)
    copy = rule_folder / "copy"
    copy.mkdir()
    for file in posters.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert found(rule_folder, image_dir=str(copy)).digests == first.digests


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_find_the_same(
    rule_folder: Path, posters: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_BATCH", 2)
    monkeypatch.setattr(images, "_n_cores", lambda: 2)
    (posters / "i3.png").write_bytes(b"no image")
    config = Config("MSCGRec", "rule", config_dict=settings(rule_folder, image_workers=workers))
    data = create_dataset(config).build()[0]
    started = time.perf_counter()
    before = torch.get_rng_state()
    loaded = found_images(config, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert time.perf_counter() - started < 60
    alone = found(rule_folder, cache_dir=str(rule_folder / "other"))
    assert loaded.digests == alone.digests and loaded.paths == alone.paths and len(loaded) == 5


def test_workers_are_at_most_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_n_cores", lambda: 2)

    def chosen(workers: int) -> ImageSettings:
        return ImageSettings(None, "rq_dino", workers, dino_settings())

    assert [n_workers(chosen(n)) for n in (0, 1, 9)] == [0, 1, 2]


def test_a_file_that_is_lost_meanwhile_is_named(rule_folder: Path, posters: Path) -> None:
    loaded = found(rule_folder)
    loaded.paths[0].unlink()
    with pytest.raises(ValueError, match=r"i\d.png was readable when this run started, but"):
        loaded[0]


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "ml-1m" / "images").is_dir(), reason=f"no ml-1m in {REAL}")
def test_posters_of_ml_1m(tmp_path: Path) -> None:
    chosen = {"data_path": str(REAL), "cache_dir": str(tmp_path), "show_progress": False}
    config = Config("MSCGRec", "ml-1m", config_dict=chosen)
    loaded = found_images(config, create_dataset(config))
    assert len(loaded) == 3256 and max(loaded[0].size) <= 128
    assert len(set(loaded.digests)) == 3256 - 9  # nine pairs are identical
