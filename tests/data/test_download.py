"""Downloads from a server on this machine: whole, or nothing is left."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from atomic_files import write
from tiny import arguments, settings

from recbole_mscgrec.cli import main
from recbole_mscgrec.data import download
from recbole_mscgrec.data.download import fetch, known_names


def archive(folder: Path, name: str, stem: str, inside: str = "") -> bytes:
    """A zip as RecBole's server has it: files named after the archive, in a folder or not."""
    write(folder, name, stem)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as stored:
        for file in sorted(folder.iterdir()):
            stored.write(file, f"{inside}{file.name}")
    return content.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[bytes, int]]]:
    """Path -> (content, the length that the header says); all of url.yaml leads here."""
    files: dict[str, tuple[bytes, int]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in files:
                self.send_error(404)
                return
            content, length = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{host.server_port}"
    here = {name: f"{base}/{address.rpartition('/')[2]}" for name, address in known_names().items()}
    monkeypatch.setattr(download, "known_names", lambda: here)
    yield files
    host.shutdown()
    host.server_close()


def serve(server: dict, path: str, content: bytes, length: int | None = None) -> None:
    server[path] = (content, len(content) if length is None else length)


@pytest.mark.parametrize("inside", ["", "Amazon_Beauty/"])
def test_files_are_named_after_the_data_set(tmp_path: Path, server: dict, inside: str) -> None:
    content = archive(tmp_path / "made", "amazon-beauty", "Amazon_Beauty", inside)
    serve(server, "/Amazon_Beauty.zip", content)
    folder = tmp_path / "data" / "amazon-beauty"
    assert fetch(folder, "amazon-beauty")
    assert sorted(p.name for p in folder.iterdir()) == ["amazon-beauty.inter", "amazon-beauty.item"]
    made = (tmp_path / "made" / "Amazon_Beauty.inter").read_bytes()
    assert (folder / "amazon-beauty.inter").read_bytes() == made
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["amazon-beauty"]
    assert not fetch(folder, "amazon-beauty")  # it is there


A_TABLE = pytest.param(["--seed_list=1"], marks=pytest.mark.slow)  # starts a program per run


@pytest.mark.parametrize("table", [[], A_TABLE])
def test_the_command_downloads_and_trains(
    tmp_path: Path, server: dict, table: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    serve(server, "/ml-1m.zip", archive(tmp_path / "made", "ml-1m", "ml-1m"))
    chosen = settings(tmp_path, collaborative_epochs=1, MAX_ITEM_LIST_LENGTH=8)
    del chosen["load_col"]
    assert main(["--model=MSCGRec", "--dataset=ml-1m", *arguments(chosen), *table]) == 0
    assert (tmp_path / "data" / "ml-1m" / "ml-1m.item").is_file()


def test_found_columns_of_a_download_are_used(tmp_path: Path, server: dict) -> None:
    """What a file's columns are is known only once it is there."""
    serve(server, "/lastfm.zip", archive(tmp_path / "made", "lastfm", "lastfm"))
    chosen = settings(tmp_path, collaborative_epochs=1, MAX_ITEM_LIST_LENGTH=8)
    del chosen["load_col"]
    assert main(["--model=MSCGRec", "--dataset=lastfm", *arguments(chosen)]) == 0


def damaged(content: bytes) -> bytes:
    middle = content.index(b"ml-1m.inter") + 400
    return content[:middle] + bytes(50) + content[middle + 50 :]


def test_half_a_file_leaves_nothing(tmp_path: Path, server: dict) -> None:
    content = archive(tmp_path / "made", "ml-1m", "ml-1m")
    serve(server, "/ml-1m.zip", content[: len(content) // 2], len(content))
    refuse(
        tmp_path, rf"{len(content) // 2:,} of {len(content):,} bytes arrived: the connection broke"
    )


@pytest.mark.parametrize("kind", ["damaged", "no zip", "cut", "other files", "missing"])
def test_a_broken_archive_leaves_nothing(tmp_path: Path, server: dict, kind: str) -> None:
    content = archive(tmp_path / "made", "ml-1m", "ml-1m")
    other = archive(tmp_path / "other", "ml-1m", "README")
    contents = {
        "damaged": damaged(content),
        "no zip": b"<html>404</html>",
        "cut": content[:-200],
        "other files": other,
    }
    if kind in contents:
        serve(server, "/ml-1m.zip", contents[kind])
    reasons = {
        "damaged": "damaged|invalid|Error",
        "no zip": "not a zip file",
        "cut": "not a zip file",
        "other files": r"README.inter.* and no ml-1m.inter",
        "missing": "404",
    }
    refuse(tmp_path, reasons[kind])


def refuse(folder: Path, reason: str) -> None:
    data = folder / "data"
    with pytest.raises(ValueError, match=rf"'ml-1m' is not in .*/ml-1m.zip failed: .*({reason})"):
        fetch(data / "ml-1m", "ml-1m")
    assert list(data.iterdir()) == []


def test_a_full_disk_is_known_before(
    tmp_path: Path, server: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, "/ml-1m.zip", b"x" * 5000)
    free = type("usage", (), {"free": 10_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: free)
    refuse(tmp_path, r"it has 5,000 bytes and .* only 10,000 free")


@pytest.mark.parametrize(
    ("name", "offered"),
    [("ml1m", "ml-1m"), ("ml-100", "ml-100k"), ("amazon-beuty", "amazon-beauty"), ("mien", "mine")],
)
def test_a_misspelt_name_is_offered_the_nearest(tmp_path: Path, name: str, offered: str) -> None:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{name!r} is not in .*Did you mean .*{offered}"):
        fetch(tmp_path / "data" / name, name)


def test_two_processes_that_download_the_same_data_set_both_go_on(
    tmp_path: Path, server: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, "/Amazon_Beauty.zip", archive(tmp_path / "m", "amazon-beauty", "Amazon_Beauty"))
    folder, unpack = tmp_path / "data" / "amazon-beauty", download._unpack

    def slower(*args: object) -> None:
        unpack(*args)
        folder.mkdir(parents=True)
        (folder / "amazon-beauty.inter").write_text("of the other process")

    monkeypatch.setattr(download, "_unpack", slower)
    assert fetch(folder, "amazon-beauty")
    assert (folder / "amazon-beauty.inter").read_text() == "of the other process"
