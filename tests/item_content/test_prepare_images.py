"""The command `prepare images`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_server import ImageServer, image_server
from PIL import Image
from recbole.data import create_dataset
from tiny import settings, typed

from recbole_mscgrec.cli import main
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.features.images import find_images
from recbole_mscgrec.storage.files import read_csv


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with image_server() as served:
        yield served


def write_urls(folder: Path, urls: dict[str, str], column: str = "image_url") -> None:
    lines = [f"{item}\t{url}" for item, url in urls.items()]
    text = "\n".join([f"item_id:token\t{column}:token", *lines]) + "\n"
    (folder / "data" / "rule" / "rule.item").write_text(text)


def prepare(*options: str) -> int:
    fast = ["--host_pause=0", "--backoff=0.01", "--retries=1", "--timeout=20", "--per_host=8"]
    return main(["prepare", "images", "--name=rule", "--data_path=data", *fast, *options])


def items_with_an_image(folder: Path) -> dict[str, tuple[int, int]]:
    """As training finds them."""
    config = Config("MSCGRec", "rule", config_dict=settings(folder, image_workers=0))
    data = create_dataset(config).build()[0]
    chosen = typed(config, data)
    found = find_images(chosen.images, chosen.files, chosen.run, data)
    names = [data.id2token("item_id", i) for i in found.items.tolist()]
    return {name: found[n].size for n, name in enumerate(names)}


def failed(folder: Path) -> dict[str, str]:
    return {
        row["item"]: row["reason"]
        for row in read_csv(folder / "data" / "rule" / "rule.images-failed.csv")
    }


def test_images_are_found_by_training_and_later_runs_go_on(
    rule_folder: Path, server: ImageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = {f"i{i}": f"{server.url}ok/{i}" for i in range(4)}
    urls |= {"i4": f"{server.url}large/4", "i5": "", "i6": f"{server.url}status/404"}
    urls |= {"i7": f"{server.url}half/3", "i8": f"['{server.url}ok/8', '{server.url}ok/9']"}
    write_urls(rule_folder, urls)
    assert prepare("--limit=2", "--size=128") == 0
    assert "2 fetched, 0 already there, 1 items without one, 0 failed\n" in capsys.readouterr().out
    assert prepare("--size=128", "--user_agent=me") == 0
    out = capsys.readouterr().out
    assert "4 fetched, 2 already there, 1 items without one, 2 failed (HTTP" in out
    assert "(HTTP 404 Not Found: 1, the" in out
    assert "rule.images-failed.csv" in out and "me" in server.agents
    assert items_with_an_image(rule_folder) == {
        **{f"i{i}": (40, 30) for i in (0, 1, 2, 3, 8)},
        "i4": (128, 64),
    }
    lost = {"i6": "HTTP 404 Not Found", "i7": "the connection broke within the file"}
    assert failed(rule_folder) == lost

    asked = server.asked.copy()  # of the third run only i7, which had two of its three tries
    assert prepare() == 0
    assert server.asked - asked == {"/half/3": 2}
    assert failed(rule_folder) == {"i6": lost["i6"]}
    asked = server.asked.copy()
    assert prepare("--retry_failed") == 0
    assert server.asked - asked == {"/status/404": 1}
    write_urls(rule_folder, {**urls, "i6": f"{server.url}ok/6"})  # a new address
    assert prepare() == 0
    assert failed(rule_folder) == {} and "i6" in items_with_an_image(rule_folder)


def test_a_folder_of_images(rule_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = rule_folder / "covers"
    source.mkdir()
    Image.new("CMYK", (300, 600)).save(source / "i1.tiff")
    Image.new("L", (20, 10)).save(source / "i2.png")
    Image.new("L", (20, 10)).save(source / "other.png")
    (source / "i3.jpg").write_bytes(b"no image")
    assert prepare(f"--folder={source}") == 0
    assert items_with_an_image(rule_folder) == {"i1": (128, 256), "i2": (20, 10)}
    assert failed(rule_folder) == {"i3": "not an image"}
    assert "2 fetched, 0 already there, 27 items without one, 1 failed" in capsys.readouterr().out


def test_images_that_were_there_count(
    rule_folder: Path, server: ImageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """i1 has an image and no address; i2 has an address that fails."""
    images = rule_folder / "data" / "rule" / "images"
    images.mkdir()
    Image.new("L", (20, 10)).save(images / "i1.png")
    write_urls(rule_folder, {"i1": "", "i2": f"{server.url}status/404", "i3": ""})
    assert prepare() == 0
    assert "0 fetched, 1 already there, 1 items without one, 1 failed" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_done(rule_folder: Path, server: ImageServer) -> None:
    urls = {f"i{i}": f"{server.url}ok/{i}" for i in range(5)}
    urls |= {"i5": f"{server.url}status/404", "i6": f"{server.url}slow/1"}
    write_urls(rule_folder, urls)
    images = rule_folder / "data" / "rule" / "images"

    def press() -> None:
        while len(server.asked) < 7 or len(list(images.glob("*.jpg"))) < 5:
            time.sleep(0.02)
        time.sleep(0.5)  # for the 404 to be noted
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.perf_counter()
    threading.Thread(target=press, daemon=True).start()
    assert prepare("--timeout=60") == 130
    assert time.perf_counter() - began < 20
    assert sorted(p.name for p in images.iterdir()) == [f"i{i}.jpg" for i in range(5)]
    assert failed(rule_folder) == {"i5": "HTTP 404 Not Found"}
    assert prepare("--timeout=0.2") == 0  # and goes on
    assert server.asked["/ok/0"] == server.asked["/status/404"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url_column=picture"], "has no column picture (--url_column); it has ['item_id'"),
        (["--folder=nowhere"], "--folder (nowhere) is not a folder"),
        (["--folder=data/rule/images"], "is the folder that the images are written to"),
        (["--folder=data/rule"], "holds 0 images, but none is named after an item"),
        (["--name=other"], "data/other/other.item does not exist; data/other holds nothing"),
    ],
)
def test_mistakes_are_named_in_one_line(
    rule_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    write_urls(rule_folder, {"i1": "http://127.0.0.1:9/a.jpg"})
    (rule_folder / "data" / "rule" / "images").mkdir()
    assert prepare(*options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("option", ["--size=2000", "--workers=0", "--timeout=x", "--limit=-1"])
def test_numbers_out_of_range(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare(option)
    assert option.partition("=")[0] in capsys.readouterr().err


def test_no_image_at_all_is_status_one(rule_folder: Path) -> None:
    write_urls(rule_folder, {"i1": "http://127.0.0.1:9/a.jpg"})
    assert prepare() == 1
    assert failed(rule_folder) == {"i1": "connection failed: Connection refused"}


def test_the_help_says_whose_the_rules_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "images", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "does not read robots.txt" in text
    assert "DIR/NAME/images/ITEM.jpg" in text and "(default: 256)" in text
