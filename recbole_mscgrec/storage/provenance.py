"""The code that made a file: the version of the package and, in a git checkout, the commit."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import recbole_mscgrec

_ROOT = Path(recbole_mscgrec.__file__).resolve().parent.parent


@cache
def made_by() -> dict[str, str | None]:
    """`version` and `commit`. The commit ends in + if files have changed since; it is None outside
    a git checkout."""
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
