"""HTTP requests for files: http and https only, redirects not followed, time and size bounded."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, NamedTuple

from recbole_mscgrec.storage.errors import one_line

_BLOCK = 1 << 16
_POLL = 0.5  # seconds after which a waiting read checks whether the program should stop
_REDIRECTS = {301, 302, 303, 307, 308}
_TRY_AGAIN = {408, 425, 429}  # and all statuses from 500
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Body(NamedTuple):
    """What a server sent for an address."""

    content: bytes
    kind: str  # Content-Type
    sized: bool  # the server announced the length, and all of it arrived


class Moved(NamedTuple):
    """The address to which a server redirects."""

    url: str


class NotFetched(Exception):
    """Why there is no file.

    Attributes:
        reason: one line for the user.
        lasting: another try would fail, too.
        wait: seconds that the server asks to wait, or None.
        answered: False if the connection failed, so that the host may be unreachable.
    """

    def __init__(
        self, reason: str, lasting: bool, wait: float | None = None, answered: bool = True
    ) -> None:
        super().__init__(reason)
        self.reason, self.lasting, self.wait, self.answered = reason, lasting, wait, answered


class Stopped(Exception):
    """The program is stopping."""


class Getter:
    """Sends requests; several threads may use it at the same time.

    Args:
        timeout: seconds for connecting, and again for the whole answer.
        max_bytes: larger files are refused and not read to the end.
        user_agent: the User-Agent header.
    """

    def __init__(self, timeout: float, max_bytes: int, user_agent: str) -> None:
        self.timeout, self.max_bytes, self.user_agent = timeout, max_bytes, user_agent
        self.stopping = threading.Event()

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS settings, made once: reading the certificates takes longer than a request."""
        return ssl.create_default_context()

    def stop(self) -> None:
        """End all requests; from now on they raise Stopped."""
        self.stopping.set()

    def get(self, url: str) -> Body | Moved:
        """The file at an http or https address, or the address to which the server redirects.

        Raises:
            NotFetched: the file cannot be fetched, with the reason.
            Stopped: `stop` was called.
        """
        host_of(url)
        opener = urllib.request.OpenerDirector()  # without handlers for files, FTP and redirects
        clock = _Clock(time.monotonic() + 2 * self.timeout, self.stopping)
        for handler in (urllib.request.ProxyHandler(), _Plain(clock), _Tls(clock, self.tls)):
            opener.add_handler(handler)
        try:
            sent = written(url)
            request = urllib.request.Request(sent, headers={"User-Agent": self.user_agent})
            with opener.open(request, timeout=self.timeout) as answer:
                clock.end = time.monotonic() + self.timeout
                return self._read(url, answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(error) from error

    def _read(self, url: str, answer: Any) -> Body | Moved:
        status, headers = answer.status, answer.headers
        if status in _REDIRECTS and headers.get("Location"):
            return Moved(urllib.parse.urljoin(url, headers["Location"].strip()))
        if status != 200:
            lasting = status < 500 and status not in _TRY_AGAIN
            raise NotFetched(_name_of(status), lasting, seconds_of(headers.get("Retry-After")))
        length = answer.length  # None if the server does not announce it
        too_large = NotFetched(f"larger than {self.max_bytes:,} bytes (--max_bytes)", True)
        if length is not None and length > self.max_bytes:
            raise too_large
        blocks, size = [], 0
        while block := answer.read(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > self.max_bytes:
                raise too_large
        if length is not None and size < length:
            raise NotFetched("the connection broke within the file", False)
        return Body(b"".join(blocks), headers.get_content_type(), length is not None)

    def _failure(self, error: Exception) -> NotFetched:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError) or "timed out" in str(cause):
            return NotFetched(
                f"no answer within {self.timeout:g} s (--timeout)", False, None, False
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NotFetched(f"certificate refused: {cause.verify_message}", True, None, False)
        if isinstance(cause, socket.gaierror):
            return NotFetched("host name not found", False, None, False)
        if isinstance(error, http.client.IncompleteRead):
            return NotFetched("the connection broke within the file", False)
        if isinstance(error, (http.client.InvalidURL, ValueError, UnicodeError)):
            return NotFetched("not an address that can be requested", True)
        text = getattr(cause, "strerror", None) or one_line(cause) or type(cause).__name__
        return NotFetched(f"connection failed: {text}", False, None, False)


def host_of(url: str) -> str:
    """Host and port of an http or https address.

    Raises:
        NotFetched: it is not such an address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = parts = None
    if parts is None or parts.scheme not in _DEFAULT_PORTS or not host:
        raise NotFetched("not an http or https address", True)
    return f"{host}:{port or _DEFAULT_PORTS[parts.scheme]}"


def written(url: str) -> str:
    """An address as HTTP sends it: spaces and non-ASCII characters are encoded."""
    parts = urllib.parse.urlsplit(url.strip())
    place = parts.netloc
    if not place.isascii():
        place = place.encode("idna").decode("ascii")
    path, query = (
        urllib.parse.quote(text, safe="%/:;=@&?!$'()*+,~[]|") for text in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, place, path or "/", query, ""))


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds to wait according to a Retry-After header, which holds seconds or a date; None if
    there is none that can be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max((date - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _name_of(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


# --- sockets with a deadline ----------------------------------------------------------------------
# The timeout of a socket restarts with each byte, so a server that sends a byte now and then could
# block a thread forever.


class _Clock:
    """The deadline of a request."""

    def __init__(self, end: float, stopping: threading.Event) -> None:
        self.end, self.stopping = end, stopping

    def left(self) -> float:
        """Seconds until the deadline, above 0. Raises TimeoutError or Stopped."""
        if self.stopping.is_set():
            raise Stopped
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Reader(io.RawIOBase):
    """The bytes that arrive at a socket until the deadline."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._sock.settimeout(min(self._clock.left(), _POLL))
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue

    def close(self) -> None:
        self._sock.close()
        super().close()


class _Socket:
    """The part of the socket interface that http.client uses, with a deadline."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock, self._is_read = sock, clock, False

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        self._is_read = True
        return io.BufferedReader(_Reader(self._sock, self._clock))

    def close(self) -> None:
        if not self._is_read:  # otherwise the reader closes it, as with a real socket
            self._sock.close()


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, *args: Any, clock: _Clock, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def connect(self) -> None:
        self._clock.left()
        super().connect()
        self.sock: Any = _Socket(self.sock, self._clock)


class _HTTPSConnection(_HTTPConnection, http.client.HTTPSConnection):
    """Connects as HTTPSConnection does, but with a deadline."""


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, request: Any) -> Any:
        return self.do_open(_HTTPConnection, request, clock=self._clock)  # type: ignore[arg-type]


class _Tls(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._clock, self._tls = clock, context

    def https_open(self, request: Any) -> Any:
        made = {"context": self._tls, "clock": self._clock}
        return self.do_open(_HTTPSConnection, request, **made)  # type: ignore[arg-type]
