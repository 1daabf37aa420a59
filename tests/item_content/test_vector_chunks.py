"""Chunks of vectors on disk, and the file they end in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import safetensors
import torch

from recbole_mscgrec.item_content import vector_chunks
from recbole_mscgrec.item_content.vector_chunks import (
    Chunks,
    Texts,
    check_tokens,
    model_digest,
    shard_of,
)
from recbole_mscgrec.storage.errors import UserError

TEXTS = Texts([f"i{i}" for i in range(7)], [f"text {i}" for i in range(7)])
RECIPE = {"encoder": "e", "dtype": "float32"}


@pytest.fixture(autouse=True)
def _three_texts_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_chunks, "CHUNK", 3)


def chunks(folder: Path, texts: Texts = TEXTS, **recipe: str) -> Chunks:
    return Chunks(folder / "v.safetensors", texts, {**RECIPE, **recipe})


def rows(k: int) -> torch.Tensor:
    n = len(TEXTS.texts[3 * k : 3 * k + 3])
    return torch.full((n, 2), float(k), dtype=torch.float16)


def test_chunks_end_in_one_file_in_the_order_of_the_texts(tmp_path: Path) -> None:
    made = chunks(tmp_path)
    assert len(made) == 3 and made.texts_of(2) == ["text 6"]
    for k in (2, 0):
        made.save(k, rows(k))
    assert chunks(tmp_path).missing() == [1] and not made.join() and not made.is_done()
    made.save(1, rows(1))
    assert made.join() and made.is_done() and made.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.safetensors", "v.tokens.txt"]
    assert len({p.stat().st_mode for p in tmp_path.iterdir()}) == 1  # readable by the same people
    assert (tmp_path / "v.tokens.txt").read_text().split() == TEXTS.tokens
    with safetensors.safe_open(tmp_path / "v.safetensors", framework="pt") as stored:
        assert stored.get_tensor("vectors")[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
        told = json.loads(stored.metadata()["made"])
    assert {**told, "key": ""} == {**RECIPE, "n_items": 7, "key": ""}


def test_a_change_of_texts_or_options_needs_its_own_chunks(tmp_path: Path) -> None:
    made = chunks(tmp_path)
    for k in range(3):
        made.save(k, rows(k))
    other = TEXTS._replace(texts=[*TEXTS.texts[:4], "changed", *TEXTS.texts[5:]])
    assert chunks(tmp_path, other).missing() == [1]
    assert chunks(tmp_path, dtype="float16").missing() == [0, 1, 2]
    made.join()
    assert not chunks(tmp_path, other).is_done()
    renamed = TEXTS._replace(tokens=["x", *TEXTS.tokens[1:]])
    assert not chunks(tmp_path, renamed).is_done() and chunks(tmp_path).is_done()


def test_a_damaged_chunk_is_set_aside_and_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = chunks(tmp_path)
    for k in range(3):
        made.save(k, rows(k))
    (file,) = made.folder.glob("chunk-000001-*")
    file.write_bytes(file.read_bytes()[:-3])
    assert not made.join() and made.missing() == [1] and "is not used" in caplog.text


def test_processes_that_end_together_join_once(tmp_path: Path) -> None:
    for k in range(3):
        chunks(tmp_path).save(k, rows(k))
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(chunks(tmp_path).join())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8 and chunks(tmp_path).is_done()


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard_of(None) == (0, 1) and shard_of("3/4") == (3, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shard_of(None) == (1, 2) and shard_of("0/1") == (0, 1)
    for wrong in ("4/4", "1", "a/b", "-1/4", "1/0"):
        with pytest.raises(UserError, match=r"--shard \(.*\) must be I/N"):
            shard_of(wrong)


def test_a_model_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_chunks, "_SAMPLE", 4)
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "large").write_bytes(bytes(1000))
        (folder / "small").write_bytes(b"x")
    assert model_digest(str(first)) == model_digest(str(second)) != ""
    (second / "large").write_bytes(bytes(999) + b"1")
    assert model_digest(str(first)) != model_digest(str(second))
    assert model_digest("name/on-the-hub") == ""


def test_tokens_stand_on_a_line_each() -> None:
    check_tokens(["a", "b c"], Path("x.item"))
    for strange in ("a\nb", "a\rb"):
        with pytest.raises(UserError, match="x.item: 1 item ids hold a line break"):
            check_tokens(["a", strange], Path("x.item"))
