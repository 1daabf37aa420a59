"""The benchmark of large catalogues, on a small one."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def scale(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("scale")


def test_users_keep_to_two_clusters_and_vectors_to_theirs(
    scale: ModuleType, tmp_path: Path
) -> None:
    scale.generate(tmp_path, 1000, 50, 8)
    lines = (tmp_path / "scale" / "scale.inter").read_text().splitlines()[1:]
    clusters: dict[str, set[int]] = {}
    for user, item, _ in (line.split("\t") for line in lines):
        assert 0 <= int(item[1:]) < 1000
        clusters.setdefault(user, set()).add(int(item[1:]) % 10)
    assert len(clusters) == 50 and len(lines) == 400
    assert max(len(c) for c in clusters.values()) == 2
    vectors = np.load(tmp_path / "image.npy", mmap_mode="r")
    tokens = (tmp_path / "image.tokens.txt").read_text().split()
    assert vectors.shape == (950, 64) and len(set(tokens)) == 950
    of = np.array([int(t[1:]) % 10 for t in tokens])
    centres = np.stack([vectors[of == c].mean(0) for c in range(10)])
    nearest = ((vectors[:, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == of).mean() > 0.99


def test_exponents_are_those_of_power_laws_also_with_an_earlier_file(
    scale: ModuleType, tmp_path: Path
) -> None:
    rows = [
        {"items": n, "stage": stage, "seconds": 99.0, "cpu_seconds": c * n**s}
        for n in (10, 100, 1000)
        for stage, c, s in (("a", 2, 1.0), ("b", 1, 1.5), ("short", 1e-9, 1.0))
    ]
    file = tmp_path / "scale.csv"
    assert scale.exponents(rows) == pytest.approx({"a": 1.0, "b": 1.5})
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:6] + [rows[6] | {"cpu_seconds": 7.0}])
    joined = scale.with_earlier(rows[6:], file)
    assert [int(row["items"]) for row in joined] == [10] * 3 + [100] * 3 + [1000] * 3
    assert [row["exponent"] for row in joined] == [1.0, 1.5, ""] * 3


@pytest.mark.slow
def test_all_stages_of_a_small_catalogue(scale: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "scale.csv"
    sizes = ["--items=150", "--steps=2", "--eval-batches=1", "--codebook-size=8"]
    places = [f"--folder={tmp_path / 'made'}", f"--csv={file}"]
    command = [sys.executable, scale.__file__, *sizes, *places]
    subprocess.run(command, check=True, capture_output=True)
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    stages = [row["stage"] for row in rows]
    assert stages[:2] == ["data", "tokenizer: collaborative"]
    after = ["train, 2 steps", "evaluation, 1 batches", "metrics of all users", "checkpoint"]
    stock = ["RecBole's SASRec: data", "RecBole's SASRec: 5 steps"]
    assert stages[-8:] == ["tokenizer and network", *after, "export", *stock]
    assert all(float(row["peak_mb"]) > 100 for row in rows)
    assert (tmp_path / "made" / "150" / "export").is_dir()
