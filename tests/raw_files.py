"""Small raw data sets in the formats in which their authors publish them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import threading
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from recbole_mscgrec.cli import main

START = 1_600_000_000  # seconds
Row = tuple[str, str, int]  # user, item, seconds after START


def rule_rows(n_users: int = 30, n_items: int = 20, length: int = 8) -> list[Row]:
    """Every user walks from item to item + 1; the rows of all users are mixed."""
    return [
        (f"u{u}", f"i{(7 * u + n) % n_items}", 60 * n)
        for n in range(length)
        for u in range(n_users)
    ]


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    """A text file, compressed if its name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
    return file


def json_lines(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    return write(file, "".join(json.dumps(row) + "\n" for row in rows))


def csv_file(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return write(file, text.getvalue())


def zip_of(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def review_2023(user: str, item: str, at: int, **changes: Any) -> dict[str, Any]:
    """A review with all fields of the authors' file; the time is in milliseconds."""
    return {
        "rating": 5.0,
        "title": "Such a lovely scent",
        "text": "I like it.<br />[[VIDEOID:12ab]]",
        "images": [],
        "asin": f"{item}-red",
        "parent_asin": item,
        "user_id": user,
        "timestamp": 1000 * (START + at) + 123,
        "helpful_vote": 0,
        "verified_purchase": True,
        **changes,
    }


def meta_2023(item: str, **changes: Any) -> dict[str, Any]:
    """The metadata of an item with all fields of the authors' file."""
    return {
        "main_category": "All Beauty",
        "title": f"Title of {item}",
        "average_rating": 4.5,
        "rating_number": 12,
        "features": [],
        "description": [],
        "price": None,
        "images": [picture("MAIN", item)],
        "videos": [],
        "store": "Generic",
        "categories": [],
        "details": {"Department": "Women"},
        "parent_asin": item,
        "bought_together": None,
        **changes,
    }


def picture(variant: str, name: str, **changes: Any) -> dict[str, Any]:
    base = f"https://m.media-amazon.com/images/I/{name}"
    return {
        "thumb": f"{base}._SS40_.jpg",
        "large": f"{base}.jpg",
        "variant": variant,
        "hi_res": None,
        **changes,
    }


def prepare(*arguments: object) -> int:
    """Exit status of `recbole-mscgrec prepare ...`."""
    return main(["prepare", *map(str, arguments)])


def table(file: Path) -> list[list[str]]:
    """The rows of an atomic file, as lines and tabs cut them; the header first."""
    return [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


@contextmanager
def server_of(files: dict[str, bytes], ranges: bool = True) -> Iterator[Any]:
    """A server on this machine. Its `cut` is after how many bytes an answer breaks off; its `asked`
    are the Range headers that came."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host: Any = self.server
            if self.path not in files:
                self.send_error(404)
                return
            content, begin = files[self.path], 0
            host.asked.append(self.headers.get("Range"))
            asked = self.headers.get("Range") if ranges else None
            if asked and self.headers.get("If-Range") == host.version:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin and begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.send_header("ETag", host.version)
            self.end_headers()
            self.wfile.write(content[begin : begin + host.cut])

        def log_message(self, *args: object) -> None:
            pass

    host: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.asked, host.cut, host.version = [], 1 << 40, '"v1"'
    host.address = f"http://127.0.0.1:{host.server_port}"
    threading.Thread(target=host.serve_forever, daemon=True).start()
    try:
        yield host
    finally:
        host.shutdown()
        host.server_close()
