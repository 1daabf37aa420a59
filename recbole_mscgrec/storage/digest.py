"""What our files record about themselves: a digest, which reveals later changes of the content, and
the version of the code that made them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import recbole_mscgrec

_ROOT = Path(recbole_mscgrec.__file__).resolve().parent.parent
KEY = "digest"  # the key under which a file stores the digest of the rest of its content


def digest_of(value: Any) -> str:
    """SHA-256 of tensors, numbers, strings, lists and dicts, with their types. The order of a dict
    does not matter."""
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\0".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\0".encode())
        for key in sorted(value, key=repr):
            _update(digest, key)
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}\0".encode())
        for part in value:
            _update(digest, part)
    else:
        digest.update(f"{type(value).__name__} {value!r}\0".encode(errors="surrogatepass"))


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its digest added, computed on the values as JSON stores them."""
    return {**content, KEY: digest_of(json.loads(json.dumps(content)))}


def changed(content: dict[str, Any]) -> bool:
    """Whether the content differs from its digest. Files written by older versions have none and
    count as unchanged."""
    if KEY not in content:
        return False
    return digest_of({k: v for k, v in content.items() if k != KEY}) != content[KEY]


@cache
def made_by() -> dict[str, str | None]:
    """The `version` of this package and its git `commit`. The commit ends in + if files have
    changed since; it is None outside a git checkout."""
    return {"version": recbole_mscgrec.__version__, "commit": _commit()}


def _commit() -> str | None:
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
