"""Results say which code made them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import recbole_mscgrec
from recbole_mscgrec.storage import provenance


def test_the_version_and_the_commit_of_a_checkout() -> None:
    made = provenance.made_by()
    assert made["version"] == recbole_mscgrec.__version__
    checkout = (Path(recbole_mscgrec.__file__).resolve().parent.parent / ".git").exists()
    assert bool(made["commit"]) == checkout
    assert made["commit"] is None or re.fullmatch(r"[0-9a-f]{7,40}\+?", made["commit"])


def test_outside_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance._commit() is None
