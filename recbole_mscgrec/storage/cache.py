"""Cached stages: tensors in a safetensors file, named by the fingerprint of all inputs."""

from __future__ import annotations

import hashlib
import json
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from recbole_mscgrec.storage.files import written_whole

Tensor = torch.Tensor


def fingerprint(**parts: Any) -> str:
    """Hash of named inputs: tensors, arrays, files, numbers, strings, lists, dicts."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(name.encode() + b"\0")
        _update(digest, parts[name])
    return digest.hexdigest()[:20]


def _update(digest: Any, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu().numpy()
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, Path):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:
        part = part.tolist() if isinstance(part, np.ndarray) else part
        digest.update(json.dumps(part, sort_keys=True, default=_refuse).encode())


def _refuse(part: Any) -> None:
    """Raise an error: printed text does not distinguish large tensors or arbitrary objects."""
    raise TypeError(f"{type(part).__name__} inside a list or dict cannot be hashed exactly")


def path(folder: str | Path, stage: str, key: str) -> Path:
    """The cache file of a stage with this fingerprint."""
    return Path(folder) / f"{stage}-{key}.safetensors"


def load(folder: str | Path, stage: str, key: str) -> dict[str, Tensor] | None:
    """The tensors of a cached stage, or None. A damaged or foreign file is ignored with a
    warning."""
    file = path(folder, stage, key)
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            found = (stored.metadata() or {}).get("fingerprint")
            if found == f"{stage}-{key}":
                getLogger().info(f"{stage}: reused from {file}")
                return {name: stored.get_tensor(name) for name in stored.keys()}
        reason = f"it belongs to {found}"
    except (safetensors.SafetensorError, OSError) as error:
        reason = f"it is damaged ({error})"
    getLogger().warning(f"{stage}: {file} is not used, because {reason}; it is made again.")
    return None


def save(folder: str | Path, stage: str, key: str, tensors: dict[str, Tensor]) -> None:
    """Cache the tensors of a stage. Raises UserError if the file cannot be written."""
    with written_whole(path(folder, stage, key), "cache_dir") as temporary:
        safetensors.torch.save_file(
            {name: t.contiguous() for name, t in tensors.items()},
            temporary,
            metadata={"fingerprint": f"{stage}-{key}"},
        )
