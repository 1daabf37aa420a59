"""Downloads go on where they stopped, and only whole files count."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from raw_files import server_of

from recbole_mscgrec.storage import transfer
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.transfer import fetch, text_at

CONTENT = gzip.compress(bytes(range(256)) * 100) + bytes(5000)


def test_a_whole_file(tmp_path: Path) -> None:
    with server_of({"/a.gz": CONTENT, "/a.gz.md5": b"sum"}) as host:
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz", hashlib.md5(CONTENT).hexdigest())
        assert text_at(f"{host.address}/a.gz.md5") == "sum" and text_at(f"{host.address}/b") == ""
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on(tmp_path: Path, ranges: bool) -> None:
    """With ranges each try brings the next 2,000 bytes; without, each brings the same ones."""
    with server_of({"/a.gz": CONTENT}, ranges) as host:
        host.cut = 2000
        if ranges:
            fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
            assert host.asked == [None, "bytes=2000-", "bytes=4000-"]
        else:
            with pytest.raises(UserError, match="2,000 bytes are kept"):
                fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
            host.cut = 1 << 40
            fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_later_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_TRIES", 1)
    with server_of({"/a.gz": CONTENT}) as host:
        host.cut = 1000
        with pytest.raises(UserError, match="the connection broke; 1,000 bytes are kept"):
            fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
        assert not (tmp_path / "a.gz").exists()
        host.cut = 1 << 40
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
        assert host.asked == [None, "bytes=1000-"]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_new_version_is_fetched_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_TRIES", 1)
    files = {"/a.gz": CONTENT}
    with server_of(files) as host:
        host.cut = 1000
        with pytest.raises(UserError):
            fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
        files["/a.gz"], host.version, host.cut = b"\x1f\x8bnew" + CONTENT, '"v2"', 1 << 40
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == b"\x1f\x8bnew" + CONTENT


def test_a_file_that_had_arrived_only_needs_its_name(tmp_path: Path) -> None:
    """The process was killed between the last byte and the new name."""
    with server_of({"/a.gz": CONTENT}) as host:
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
        (tmp_path / "a.gz").rename(tmp_path / "a.gz.part")
        notes = {"address": f"{host.address}/a.gz", "version": '"v1"', "size": len(CONTENT)}
        transfer.write_json(tmp_path / "a.gz.part.json", notes)
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_file_that_became_shorter_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    """The server has no bytes beyond those of the longer file that had begun to arrive."""
    with server_of({"/a.gz": CONTENT}) as host:
        (tmp_path / "a.gz.part").write_bytes(CONTENT + b"more")
        notes = {"address": f"{host.address}/a.gz", "version": '"v1"', "size": 10**6}
        transfer.write_json(tmp_path / "a.gz.part.json", notes)
        fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "md5", "message"),
    [
        ("/a.gz", "0" * 32, "MD5 checksum is wrong"),
        ("/page.gz", "", "it is not a .gz file"),
        ("/gone.gz", "", "the server answers 404"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, path: str, md5: str, message: str) -> None:
    with server_of({"/a.gz": CONTENT, "/page.gz": b"<html>Sign in</html>"}) as host:
        with pytest.raises(UserError, match=message):
            fetch(f"{host.address}{path}", tmp_path / "a.gz", md5)
    assert not list(tmp_path.glob("*.gz")) and not list(tmp_path.glob("*.part"))


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda f: type("u", (), {"free": 10}))
    with server_of({"/a.gz": CONTENT}) as host:
        with pytest.raises(UserError, match="has only 10 free"):
            fetch(f"{host.address}/a.gz", tmp_path / "a.gz")
