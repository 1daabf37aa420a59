"""Which code made a file: the package's version, and the commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import recbole_mscgrec

_ROOT = Path(recbole_mscgrec.__file__).resolve().parent.parent


@cache
def made_by() -> dict[str, str | None]:
    """`version` and `commit`; the commit ends in + where files were changed since, and is None
    outside a git checkout."""
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
