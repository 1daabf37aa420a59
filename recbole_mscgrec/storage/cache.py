"""Stages on disk: tensors in a safetensors file, named by the fingerprint of all that made them."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

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
    elif isinstance(part, np.ndarray):
        _update(digest, part.tolist())
    elif isinstance(part, dict):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    else:
        digest.update(json.dumps(part, default=str).encode())


def path(folder: str | Path, stage: str, key: str) -> Path:
    """Where the result of a stage with this fingerprint is kept."""
    return Path(folder) / f"{stage}-{key}.safetensors"


def write_json(file: str | Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def write_text(file: str | Path, text: str) -> None:
    """Write to a temporary name, then rename: a reader finds the old file or the new one.

    Raises:
        OSError: the file cannot be written; names it and what to do.
    """
    file = Path(file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(
            f"Cannot write {file}: {error}. Free space there or name another folder."
        ) from error


def load(folder: str | Path, stage: str, key: str) -> dict[str, Tensor] | None:
    """Tensors of a stored stage, or None. A damaged or foreign file is named and ignored."""
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
    """Store a stage's tensors: written to a temporary name, then renamed."""
    file = path(folder, stage, key)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(
            {name: t.contiguous() for name, t in tensors.items()},
            temporary,
            metadata={"fingerprint": f"{stage}-{key}"},
        )
        os.replace(temporary, file)
    except (OSError, safetensors.SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(
            f"Cannot write {file}: {error}. Free space there or set cache_dir to another folder."
        ) from error
