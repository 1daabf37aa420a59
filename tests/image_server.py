"""A server of images on this machine that answers in the ways in which servers do."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def image_bytes(kind: str = "PNG", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """A red image file."""
    stored = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(stored, kind, **options)
    return stored.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: ImageServer

    def do_GET(self) -> None:
        served = self.server
        kind, _, rest = self.path.strip("/").partition("/")
        with served.lock:
            served.asked[self.path] += 1
            n = served.asked[self.path]
            served.agents.add(self.headers["User-Agent"])
        try:
            getattr(self, f"_{kind}")(rest, n)
        except OSError:  # the other side has had enough
            pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content_Length": str(len(body)), **headers}
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _ok(self, rest: str, n: int) -> None:
        self._send(200, image_bytes(), Content_Type="text/plain")  # which nobody believes

    def _large(self, rest: str, n: int) -> None:
        self._send(200, image_bytes("JPEG", (1600, 800)))

    def _delayed(self, rest: str, n: int) -> None:
        served = self.server
        with served.lock:
            served.open += 1
            served.most_open = max(served.most_open, served.open)
        time.sleep(0.05)
        with served.lock:  # before the answer, after which the next request may come
            served.open -= 1
        self._ok(rest, n)

    def _status(self, rest: str, n: int) -> None:
        self._send(int(rest))

    def _busy(self, rest: str, n: int) -> None:
        """429 at first; `rest` is the header."""
        if n > 1:
            return self._ok(rest, n)
        self._send(429, Retry_After=rest.replace("_", " "))

    def _unavailable(self, rest: str, n: int) -> None:
        """503 for the first two times."""
        self._ok(rest, n) if n > 2 else self._send(503)

    def _to(self, rest: str, n: int) -> None:
        self._send(302, Location=rest if ":" in rest else f"/{rest}")

    def _loop(self, rest: str, n: int) -> None:
        self._send(301, Location=f"/loop/{int(rest) + 1}")

    def _html(self, rest: str, n: int) -> None:
        self._send(200, b"\n<!DOCTYPE html><html>Sign in</html>", Content_Type="image/jpeg")

    def _half(self, rest: str, n: int) -> None:
        """Half a file, of which the length is told, for the first `rest` times."""
        if n > int(rest):
            return self._ok(rest, n)
        body = image_bytes()
        self._send(200, body[: len(body) // 2], Content_Length=str(len(body)))

    def _cut(self, rest: str, n: int) -> None:
        """A file that is damaged where it is stored."""
        self._send(200, image_bytes("JPEG", (300, 200))[:-400])

    def _unsized(self, rest: str, n: int) -> None:
        """Half a file without its length; then a whole one."""
        body = image_bytes("JPEG", (300, 200))
        self._send(200, body[: len(body) // 2] if n == 1 else body, Content_Length="")

    def _bomb(self, rest: str, n: int) -> None:
        stored = io.BytesIO()
        Image.new("1", (9500, 9500)).save(stored, "PNG")
        self._send(200, stored.getvalue())

    def _endless(self, rest: str, n: int) -> None:
        self._send(200, Content_Length="")
        while not self.server.closing.is_set():
            self.wfile.write(b"x" * 10000)

    def _slow(self, rest: str, n: int) -> None:
        """A byte now and then, which no time-out of a socket notices."""
        self._send(200, Content_Length="")
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def _header(self, rest: str, n: int) -> None:
        """Headers that never end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Wait: ")
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def _silent(self, rest: str, n: int) -> None:
        """The connection ends without an answer."""

    def log_message(self, *args: Any) -> None:
        pass


class ImageServer(ThreadingHTTPServer):
    """
    Attributes:
        url: the address, with a / at the end.
        asked: how often each path was requested.
        most_open: the most requests of delayed/ at the same time.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.open = self.most_open = 0
        self.lock, self.closing = threading.Lock(), threading.Event()


@contextmanager
def image_server() -> Iterator[ImageServer]:
    """A server for as long as the block runs."""
    served = ImageServer()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        served.shutdown()
        served.server_close()
        thread.join()
