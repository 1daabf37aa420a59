"""A tiny trained model with titles, categories and images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny import N_ITEMS, best_file, rule_sequences, settings, write_dataset, write_table

from recbole_mscgrec.runner.quick_start import run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that has learned that item i + 1 follows item i."""
    folder = tmp_path_factory.mktemp("trained")
    write_dataset(folder / "data", "rule", rule_sequences(60))
    rows = [f"i{i} Title{i} {'even' if i % 2 == 0 else 'odd'},all" for i in range(N_ITEMS)]
    header = "item_id:token title:token_seq genre:token_seq"
    write_table(folder / "data", "rule", "item", header, rows)
    images = folder / "data" / "rule" / "images"
    images.mkdir()
    for i in range(5):
        Image.new("RGB", (20, 30), (40 * i, 90, 200)).save(images / f"i{i}.jpg")
    config = settings(folder, epochs=40, learning_rate=0.01, modalities=["collaborative", "text"])
    run("MSCGRec", "rule", None, config)
    return best_file(folder / "saved", "MSCGRec")
