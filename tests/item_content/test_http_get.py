"""One request against a server on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from image_server import ImageServer, image_bytes, image_server

from recbole_mscgrec.item_content.http_get import (
    Body,
    Getter,
    Moved,
    NotFetched,
    Stopped,
    host_of,
    seconds_of,
    written,
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with image_server() as served:
        yield served


def getter(timeout: float = 20.0) -> Getter:
    return Getter(timeout, 100_000, "test/1 (me@example.org)")


def test_a_file_comes_with_its_content_whatever_its_type(server: ImageServer) -> None:
    body = getter().get(f"{server.url}ok/1")
    assert body == Body(image_bytes(), "text/plain", True)
    assert "test/1 (me@example.org)" in server.agents


def test_a_redirect_is_told_and_not_followed(server: ImageServer) -> None:
    assert getter().get(f"{server.url}to/ok/1") == Moved(f"{server.url}ok/1")
    assert getter().get(f"{server.url}to/file:///etc/passwd") == Moved("file:///etc/passwd")


@pytest.mark.parametrize(
    ("path", "reason", "lasting", "wait", "answered"),
    [
        ("status/404", "HTTP 404 Not Found", True, None, True),
        ("status/403", "HTTP 403 Forbidden", True, None, True),
        ("status/204", "HTTP 204 No Content", True, None, True),
        ("status/599", "HTTP 599", False, None, True),
        ("status/503", "HTTP 503 Service Unavailable", False, None, True),
        ("busy/7", "HTTP 429 Too Many Requests", False, 7.0, True),
        ("half/9", "the connection broke within the file", False, None, True),
        ("endless/1", "larger than 100,000 bytes (--max_bytes)", True, None, True),
        ("slow/1", "no answer within 0.3 s (--timeout)", False, None, False),
        ("header/1", "no answer within 0.3 s (--timeout)", False, None, False),
    ],
)
def test_failures_and_whether_another_try_may_help(
    server: ImageServer, path: str, reason: str, lasting: bool, wait: float, answered: bool
) -> None:
    began = time.perf_counter()
    with pytest.raises(NotFetched) as failed:
        getter(0.3 if "0.3 s" in reason else 20.0).get(server.url + path)
    why = failed.value
    assert (why.reason, why.lasting, why.wait, why.answered) == (reason, lasting, wait, answered)
    assert time.perf_counter() - began < 10


def test_a_length_above_the_limit_is_refused_before_it_is_read(server: ImageServer) -> None:
    with pytest.raises(NotFetched, match="larger than 50 bytes"):
        Getter(20.0, 50, "t").get(f"{server.url}ok/1")


def test_servers_that_are_not_there(server: ImageServer) -> None:
    with pytest.raises(NotFetched, match="connection failed: Connection refused") as refused:
        getter().get("http://127.0.0.1:9/a.jpg")
    with pytest.raises(NotFetched, match="connection failed") as silent:
        getter().get(f"{server.url}silent/1")
    assert not (refused.value.answered or refused.value.lasting or silent.value.answered)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b.jpg", "data:image/png,x", "images/1.jpg", "http://"]
)
def test_only_http_addresses_are_requested(url: str) -> None:
    for function in (getter().get, host_of):
        with pytest.raises(NotFetched, match="not an http or https address") as why:
            function(url)
        assert why.value.lasting


@pytest.mark.parametrize("host", ["ü" * 70, "a" * 70, "ü..b", "a b"])
def test_hosts_that_cannot_be_named_are_lasting_failures(host: str) -> None:
    with pytest.raises(NotFetched, match="address") as why:
        getter().get(f"http://{host}.example/a.jpg")
    assert why.value.lasting


def test_a_stop_ends_requests_that_wait(server: ImageServer) -> None:
    slow, ended = getter(60.0), []

    def request() -> None:
        try:
            slow.get(f"{server.url}slow/2")
        except Stopped:
            ended.append(True)

    thread = threading.Thread(target=request)
    thread.start()
    time.sleep(0.2)
    slow.stop()
    thread.join(20)
    assert ended == [True]


def test_hosts_have_their_port() -> None:
    assert host_of("http://Example.org/a") == "example.org:80"
    assert host_of("https://example.org/a") == "example.org:443"
    assert host_of("https://example.org:8443/a") == "example.org:8443"


def test_addresses_are_encoded_once() -> None:
    assert written(" http://a.b/ä b/c%20d,_SX3_.jpg?x=ü#top ") == (
        "http://a.b/%C3%A4%20b/c%20d,_SX3_.jpg?x=%C3%BC"
    )
    assert written("http://bücher.example/a") == "http://xn--bcher-kva.example/a"
    assert written("http://a.b") == "http://a.b/"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_of("120") == 120.0
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert seconds_of(format_datetime(soon, usegmt=True)) == pytest.approx(90, abs=3)
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [seconds_of(text) for text in (None, "", "soon", "-5")] == [None] * 4
    assert seconds_of("9" * 400) == 999_999_999.0


def test_https_with_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    import shutil
    import ssl
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    kind = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *names, *files], check=True, capture_output=True
    )
    with image_server() as served:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        served.socket = context.wrap_socket(served.socket, server_side=True)
        url = served.url.replace("http:", "https:")
        with pytest.raises(NotFetched, match="certificate refused: self") as why:
            getter().get(f"{url}ok/1")
        assert why.value.lasting
        trusting = getter()
        trusting.tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert trusting.get(f"{url}ok/1") == Body(image_bytes(), "text/plain", True)
        with pytest.raises(NotFetched, match="no answer within"):
            slow = Getter(0.3, 1000, "t")
            slow.tls = trusting.tls
            slow.get(f"{url}slow/1")
