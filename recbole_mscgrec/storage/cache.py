"""Cached stages: tensors in a safetensors file that is named after a fingerprint of all inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch

from recbole_mscgrec.storage import digest, files, lock, schema
from recbole_mscgrec.storage.errors import one_line
from recbole_mscgrec.storage.files import written_whole

Tensor = torch.Tensor
T = TypeVar("T")


class Blocks(NamedTuple):
    """An array whose rows come in blocks. It has the same fingerprint as the whole array."""

    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]


def fingerprint(**parts: Any) -> str:
    """Hash of named inputs: tensors, arrays, files, numbers, strings, lists, dicts."""
    total = hashlib.sha256()
    for name in sorted(parts):
        total.update(name.encode() + b"\0")
        _update(total, parts[name])
    return total.hexdigest()[:20]


def _update(total: Any, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu().numpy()
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        total.update(f"{part.dtype}{part.shape}".encode())
        total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    elif isinstance(part, Blocks):
        total.update(f"{part.dtype}{part.shape}".encode())
        for block in part.blocks:
            total.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
    elif isinstance(part, Path):
        with part.open("rb") as file:
            while data := file.read(1 << 20):
                total.update(data)
    else:
        part = part.tolist() if isinstance(part, np.ndarray) else part
        total.update(json.dumps(part, sort_keys=True, default=_refuse).encode())


def _refuse(part: Any) -> None:
    """Raise TypeError: the printed form of large tensors or arbitrary objects is ambiguous."""
    raise TypeError(f"{type(part).__name__} inside a list or dict cannot be hashed exactly")


def path(folder: str | Path, stage: str, key: str) -> Path:
    """The cache file of a stage with this fingerprint."""
    return Path(folder) / f"{stage}-{key}.safetensors"


def load(
    folder: str | Path, stage: str, key: str, rule: schema.Rule = schema.WEIGHTS
) -> dict[str, Tensor] | None:
    """The tensors of a cached stage, or None if there are none. A file that is damaged, belongs to
    another stage or does not follow `rule` is set aside with a warning."""
    file = path(folder, stage, key)
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        reason = _fault(metadata, tensors, f"{stage}-{key}", rule)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = f"it is damaged ({one_line(error)})"
    if reason:
        files.set_aside(file, reason)
        return None
    getLogger().info(f"{stage}: reused from {file}")
    return tensors


def _fault(
    metadata: dict[str, str], tensors: dict[str, Tensor], name: str, rule: schema.Rule
) -> str:
    """Why a file with these tensors is not the cached stage `name`; '' if it is."""
    found, _, kept_digest = metadata.get("fingerprint", "nothing").partition(" ")
    if found != name:
        return f"it belongs to {found:.60}"
    # Files written by older versions have no digest.
    if kept_digest and kept_digest != digest.digest_of(tensors):
        return "it is damaged: its content differs from the checksum that was written with it"
    strange = sorted(set(tensors) - set(rule)) if isinstance(rule, dict) else []
    return f"it holds an unknown {strange[0]:.60}" if strange else schema.fault(tensors, rule)


def save(folder: str | Path, stage: str, key: str, tensors: dict[str, Tensor]) -> None:
    """Cache the tensors of a stage. Raises UserError if the file cannot be written."""
    tensors = {name: t.contiguous() for name, t in tensors.items()}
    # A single entry: safetensors writes several in random order, so equal caches would differ.
    metadata = {"fingerprint": f"{stage}-{key} {digest.digest_of(tensors)}"}
    with written_whole(path(folder, stage, key), "cache_dir") as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def made_once(
    folder: str | Path, stage: str, key: str, stored: Callable[[], T | None], make: Callable[[], T]
) -> T:
    """The cached result that `stored` returns or, if that is None, the result of `make`, which must
    cache it. If another process is making the same stage, wait for it and read its result.

    Raises:
        UserError: the folder cannot be written, or the lock was lost (see lock.py).
    """
    if (found := stored()) is not None:
        return found
    file = path(folder, stage, key)
    if lock.file_of(file).is_file():
        getLogger().info(f"{stage}: waiting for another process that is making {file}")
    with lock.claim(file, f"makes {file}", instead="set cache_dir to another folder", wait=True):
        return make() if (found := stored()) is None else found
