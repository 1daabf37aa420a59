"""Exports of tiny models with random weights, and files of new items for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import build, randomize, settings

from recbole_mscgrec.deployment.export import export_of_loaded
from recbole_mscgrec.new_items.kept_encoders import kept_encoders
from recbole_mscgrec.serving import export_folder

# Settings of models that differ in what new items need.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "text": {"target_modality": "text"},
    "fused": {"target_modality": "fused", "history_vectors": True},
    "redistributed": {"collision": "redistribute"},
    "learned": {"learned_items": 30},
    "some learned": {"learned_items": 7},
    "unconstrained": {"constrained_training": False},
}


def write_export(folder: Path, out: Path, **changes: Any) -> Path:
    """The export of a model with random weights on the data set `rule` in `folder`."""
    chosen = {"modalities": ["collaborative", "text"], **changes}
    built = build("MSCGRec", "rule", settings(folder, **chosen))
    randomize(built.model)
    train = built.train._dataset
    kept = kept_encoders(built.model, train)
    made = export_of_loaded(built.config, built.model, train)
    export_folder.write(out, replace(made, new_items=kept.plan), kept.files)
    return out


def write_new(
    folder: Path, texts: dict[str, str], header: str = "item_id:token title:token_seq"
) -> Path:
    """folder/new.item with one text per item, in this order."""
    file = folder / "new.item"
    rows = [f"{item}\t{text}" for item, text in texts.items()]
    file.write_text("\n".join([header.replace(" ", "\t"), *rows]) + "\n", encoding="utf-8")
    return file
