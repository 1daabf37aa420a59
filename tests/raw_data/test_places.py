"""Raw files: those named, those in the folder of downloads, else their authors'."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from pathlib import Path

import pytest
from raw_files import json_lines, meta_2023, prepare, review_2023, rule_rows, server_of, table

from recbole_mscgrec.raw_data import places


def amazon_files() -> dict[str, bytes]:
    """The two files of a category at their places on the server."""
    texts = [json.dumps(review_2023(*row)) for row in rule_rows()], [json.dumps(meta_2023("i1"))]
    reviews, meta = (gzip.compress("\n".join(lines).encode()) for lines in texts)
    return {
        "/raw/review_categories/All_Beauty.jsonl.gz": reviews,
        "/raw/meta_categories/meta_All_Beauty.jsonl.gz": meta,
    }


ARGUMENTS = ["--name=d", "--data_path=data", "--category=All_Beauty"]


def test_a_category_is_downloaded_and_then_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_of(amazon_files()) as host:
        gone = "http://127.0.0.1:9"
        monkeypatch.setattr(places, "_HOSTS_2023", (gone, host.address))  # the second one has it
        assert prepare("amazon-2023", *ARGUMENTS) == 0
    assert len(table(tmp_path / "data" / "d" / "d.inter")) == 241
    files = sorted(file.name for file in (tmp_path / "data" / "raw" / "amazon-2023").glob("[!.]*"))
    assert files == ["All_Beauty.jsonl.gz", "meta_All_Beauty.jsonl.gz"]
    assert prepare("amazon-2023", *ARGUMENTS, "--overwrite") == 0


@pytest.mark.parametrize("no_download", [False, True])
def test_without_a_network_the_error_says_what_to_fetch(
    no_download: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "_HOSTS_2023", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    begin = time.monotonic()
    assert prepare("amazon-2023", *ARGUMENTS, *["--no_download"] * no_download) == 1
    assert time.monotonic() - begin < 5
    error = capsys.readouterr().err
    assert "All_Beauty.jsonl.gz is not in data/raw/amazon-2023" in error
    address = "raw/review_categories/All_Beauty.jsonl.gz"
    assert (
        f"Fetch it from http://127.0.0.1:9/a/{address} or http://127.0.0.1:9/b/{address}" in error
    )
    assert "put it into data/raw/amazon-2023" in error and "Terms: Amazon reviews" in error


def test_an_unknown_category_is_offered_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("amazon-2023", *ARGUMENTS[:2], "--category=Beauty_and_Care") == 1
    assert "Did you mean Beauty_and_Personal_Care" in capsys.readouterr().err


def test_which_file_must_be_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for core in ("0core", "5core"):
        (tmp_path / "raw" / core).mkdir(parents=True)
        (tmp_path / "raw" / core / "All_Beauty.csv").touch()
    given = ["--benchmark=rating_only", "--without_metadata", "--from=raw"]
    assert prepare("amazon-2023", *ARGUMENTS, *given) == 1
    error = capsys.readouterr().err
    assert "several files All_Beauty.csv" in error and "raw/5core/All_Beauty.csv" in error
    assert prepare("amazon-2023", *ARGUMENTS[:2], "--category=*") == 1
    assert "is a name such as All_Beauty" in capsys.readouterr().err


def test_official_addresses() -> None:
    host = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
    (*parts, meta) = places.of_amazon("2023", "Books", "last_out_w_his")
    assert [part.addresses[0] for part in parts] == [
        f"{host}/benchmark/5core/last_out_w_his/Books.{part}.csv.gz"
        for part in ("train", "valid", "test")
    ]
    assert meta.addresses[0] == f"{host}/raw/meta_categories/meta_Books.jsonl.gz"
    assert meta.names == ["meta_Books.jsonl.gz", "meta_Books.jsonl"]


def test_plain_files_in_the_raw_folder_are_found(tmp_path: Path) -> None:
    json_lines(tmp_path / "raw" / "x" / "All_Beauty.jsonl", [review_2023(*r) for r in rule_rows()])
    given = ["--raw_path=raw", "--without_metadata", "--no_download"]
    assert prepare("amazon-2023", *ARGUMENTS, *given) == 0
    assert len(table(tmp_path / "data" / "d" / "d.inter")) == 241


def test_checksums_of_md5sum() -> None:
    md5 = hashlib.md5(b"x").hexdigest()
    for text in (f"{md5}  ml-1m.zip\n", f"MD5 (ml-1m.zip) = {md5}\n"):
        assert places._md5_in(text) == md5
    assert places._md5_in("<html>404</html>") == ""
