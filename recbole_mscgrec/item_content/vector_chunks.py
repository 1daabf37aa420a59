"""Vectors of many texts in chunks on disk, shared by processes, and the one file they end in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from recbole_mscgrec.storage import cache, lock
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import write_text, written_whole

Tensor = torch.Tensor
CHUNK = 1024  # texts
_SAMPLE = 1 << 20  # bytes that are read of each of _N_SAMPLES places of a large file
_N_SAMPLES = 16
_MADE = "made"  # key of the metadata: how the file was made, as JSON


class Texts(NamedTuple):
    """The items with a text, in the order of the .item file."""

    tokens: list[str]
    texts: list[str]


class Chunks:
    """The chunks of one encoding: chunk k has the texts from k * CHUNK on, whoever makes it.

    Args:
        out: the file in which all end; chunks are kept in a folder beside it.
        recipe: everything else that determines the vectors.
    """

    def __init__(self, out: Path, texts: Texts, recipe: dict[str, Any]) -> None:
        self.out, self.texts, self.recipe = out, texts, recipe
        self.folder = out.with_name(f"{out.name}.chunks")
        self.size = CHUNK
        starts = range(0, len(texts.texts), self.size)
        self._keys = [
            cache.fingerprint(texts=self.texts_of(k), **recipe) for k in range(len(starts))
        ]
        self.key = cache.fingerprint(tokens=texts.tokens, chunks=self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def texts_of(self, k: int) -> list[str]:
        """The texts of a chunk."""
        return self.texts.texts[k * self.size : (k + 1) * self.size]

    def exists(self, k: int) -> bool:
        """Whether a chunk is on disk."""
        return self._file(k).is_file()

    def missing(self) -> list[int]:
        """The chunks that are not on disk."""
        return [k for k in range(len(self)) if not self.exists(k)]

    def save(self, k: int, vectors: Tensor) -> None:
        """Keep the vectors (n, D) of a chunk. Raises UserError."""
        cache.save(self.folder, f"chunk-{k:06}", self._keys[k], {"vectors": vectors})

    def is_done(self) -> bool:
        """Whether the file is there, made of these texts in this way."""
        try:
            with safetensors.safe_open(self.out, framework="pt") as stored:
                made = json.loads((stored.metadata() or {}).get(_MADE, "{}"))
        except (OSError, ValueError, safetensors.SafetensorError):
            return False
        return made.get("key") == self.key and _tokens_file(self.out).is_file()

    def join(self) -> bool:
        """Make the file of all chunks and remove them, unless chunks are missing. Of processes that
        call this at the same time, one does the work.

        Returns:
            Whether the file is complete.
        """
        with lock.claim(self.out, f"joins {self.out}", wait=True):
            return self.is_done() or self._join()

    def _join(self) -> bool:
        if self.missing():
            return False
        table, at = torch.empty(0), 0
        for k in range(len(self)):
            stored = cache.load(self.folder, f"chunk-{k:06}", self._keys[k])
            if stored is None:  # damaged, which a warning has told
                return False
            part = stored["vectors"]
            if k == 0:
                table = torch.empty(len(self.texts.texts), part.size(1), dtype=part.dtype)
            table[at : at + len(part)] = part
            at += len(part)
        self._write(table)
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _write(self, vectors: Tensor) -> None:
        """The tokens first and the vectors last: the file of vectors never has other tokens."""
        self.out.unlink(missing_ok=True)
        write_text(_tokens_file(self.out), "\n".join(self.texts.tokens) + "\n")
        made = {**self.recipe, "n_items": len(vectors), "key": self.key}
        # One entry: safetensors writes several in random order, and equal vectors are equal files.
        metadata = {_MADE: json.dumps(made, sort_keys=True)}
        with written_whole(self.out, "--out") as temporary:
            safetensors.torch.save_file({"vectors": vectors}, temporary, metadata=metadata)
            temporary.chmod(_tokens_file(self.out).stat().st_mode)  # safetensors: owner only

    def _file(self, k: int) -> Path:
        return cache.path(self.folder, f"chunk-{k:06}", self._keys[k])


def check_tokens(tokens: Sequence[str], source: Path) -> None:
    """Raises UserError if tokens cannot stand one on a line."""
    strange = [token for token in tokens if "\n" in token or "\r" in token]
    if strange:
        raise UserError(
            f"{source}: {len(strange)} item ids hold a line break, such as {strange[0]!r}; the "
            "file of vectors lists one id on a line."
        )


def model_digest(name: str) -> str:
    """A digest of the files of a model's folder: of large ones their size and samples. '' for the
    name of a model on the hub."""
    folder = Path(name)
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\0".encode())
        with file.open("rb") as stream:
            if size <= _SAMPLE * _N_SAMPLES:
                digest.update(stream.read())
                continue
            for n in range(_N_SAMPLES):
                stream.seek((size - _SAMPLE) * n // (_N_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:20]


def shard_of(text: str | None) -> tuple[int, int]:
    """Number and count of a shard: `text` is I/N, or else torchrun's RANK and WORLD_SIZE count.

    Raises:
        UserError: it is not I/N with 0 <= I < N.
    """
    source, value = "--shard", text
    if value is None:
        source = "RANK/WORLD_SIZE"
        value = f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
    number, slash, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UserError(f"{source} ({value}) must be I/N, I from 0 to N - 1, such as 0/4.")
    return int(number), int(count)


def _tokens_file(out: Path) -> Path:
    """Where given_files looks for the tokens."""
    return out.with_suffix(".tokens.txt")
