"""Vectors of many texts as chunks on disk, which several processes make, joined in one file."""

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
CHUNK = 1024  # texts per chunk
_SAMPLE = 1 << 20  # bytes per sample of a large file
_N_SAMPLES = 16  # samples per large file
_MADE = "made"  # metadata key: how the file was made, as JSON


class Texts(NamedTuple):
    """The items that have a text, in the order of the .item file."""

    tokens: list[str]
    texts: list[str]


class Chunks:
    """The chunks of one encoding. Chunk k holds the CHUNK texts from k * CHUNK on, in every
    process.

    Args:
        out: the file that all chunks are joined in; they are kept in a folder beside it.
        recipe: everything besides the texts that determines the vectors.
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
        """Store the vectors (n, D) of a chunk. Raises UserError."""
        cache.save(self.folder, f"chunk-{k:06}", self._keys[k], {"vectors": vectors})

    def is_done(self) -> bool:
        """Whether the file exists and was made from these texts with this recipe."""
        try:
            with safetensors.safe_open(self.out, framework="pt") as stored:
                made = json.loads((stored.metadata() or {}).get(_MADE, "{}"))
        except (OSError, ValueError, safetensors.SafetensorError):
            return False
        return made.get("key") == self.key and _tokens_file(self.out).is_file()

    def join(self) -> bool:
        """Join all chunks in one file and remove them, unless some are missing. If several
        processes call this at the same time, one of them does the work.

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
            if stored is None:  # damaged; a warning was logged
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
        """Write the tokens first and the vectors last, so that vectors never have wrong tokens."""
        self.out.unlink(missing_ok=True)
        write_text(_tokens_file(self.out), "\n".join(self.texts.tokens) + "\n")
        made = {**self.recipe, "n_items": len(vectors), "key": self.key}
        # A single entry: safetensors writes several in random order, so equal files would differ.
        metadata = {_MADE: json.dumps(made, sort_keys=True)}
        with written_whole(self.out, "--out") as temporary:
            safetensors.torch.save_file({"vectors": vectors}, temporary, metadata=metadata)
            # safetensors makes files that only their owner can read.
            temporary.chmod(_tokens_file(self.out).stat().st_mode)

    def _file(self, k: int) -> Path:
        return cache.path(self.folder, f"chunk-{k:06}", self._keys[k])


def check_tokens(tokens: Sequence[str], source: Path) -> None:
    """Raise UserError if a token has a line break, so that a file cannot hold one per line."""
    strange = [token for token in tokens if "\n" in token or "\r" in token]
    if strange:
        raise UserError(
            f"{source}: {len(strange)} item ids hold a line break, such as {strange[0]!r}; the "
            "tokens file lists one id per line."
        )


def model_digest(name: str) -> str:
    """A digest of the files in a model's folder; of large files, only of their size and samples. ''
    if `name` is a model on the hub."""
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
    """The number of a shard and the count of shards, from `text` as I/N. If it is None, they are
    torchrun's RANK and WORLD_SIZE.

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
    """The file in which `given_files` looks for the tokens."""
    return out.with_suffix(".tokens.txt")
