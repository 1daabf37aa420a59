"""The files of an export folder, each with its size and checksum in the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from recbole_mscgrec.storage import files, schema
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.schema import Each, List, Maybe

Tensor = torch.Tensor
MANIFEST = "manifest.json"
FORMAT = 3  # 2: learned vectors for all items or none; 1: without transitions
Content = dict[str, Tensor] | list[str] | bytes  # tensors by name, lines of text, or a program
Part = dict[str, Any]  # the entry of a file in the manifest
_BLOCK = 1 << 20

_RULE = {
    "format": int,
    "generation": int,
    "files": Each({"name": str, "bytes": int, "sha256": str}),
    "network": dict,
    "target": str,
    "sizes": Each(List(int)),
    "beam_size": int,
    "constrained": bool,
    "max_history": int,
    "transition_weight": Maybe((float, int)),  # since format 2
    "cold_share": (float, int),
    "history": List(dict),
    "made_by": dict,
    "settings": dict,
    "new_items": dict,
}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an export folder, checked. Raises UserError."""
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder} is not an export folder: it has no {MANIFEST}. Make one with "
            f"`recbole-mscgrec export --model_file MODEL.pth --out {folder}`."
        )
    manifest: dict[str, Any] = files.read_json(file)
    schema.check(manifest, {"format": int}, file, "an export folder")
    if manifest["format"] > FORMAT:
        raise UserError(
            f"{folder} was written by a later version of this package (format "
            f"{manifest['format']}, here {FORMAT}): update the package."
        )
    schema.check(manifest, _RULE, file, "an export folder")
    return {"transition_weight": 0.0, **manifest}


def write_file(file: Path, content: Content) -> Part:
    """Write a file and return its entry in the manifest. Raises UserError."""
    with files.written_whole(file, "--out") as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        elif isinstance(content, list):
            temporary.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
        else:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in content.items()}
            safetensors.torch.save_file(tensors, temporary)
        size, digest = temporary.stat().st_size, _sha256(temporary)
    return {"name": file.name, "bytes": size, "sha256": digest}


def read_tensors(folder: Path, part: Part) -> dict[str, Tensor]:
    """The tensors of a file. Raises UserError if it is missing or differs from its checksum."""
    file = _checked(folder, part)
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}).") from error


def read_lines(folder: Path, part: Part) -> list[str]:
    """The lines of a file. Raises UserError if it is missing or differs from its checksum."""
    file = _checked(folder, part)
    try:
        return file.read_text(encoding="utf-8").split("\n")[:-1]
    except ValueError as error:
        raise UserError(f"{file} is damaged ({one_line(error)}).") from error


def _checked(folder: Path, part: Part) -> Path:
    file = folder / Path(part["name"]).name  # never a file outside the folder
    if not file.is_file():
        raise UserError(f"{file} is missing: run the export again.")
    if file.stat().st_size != part["bytes"] or _sha256(file) != part["sha256"]:
        raise UserError(
            f"{file} is damaged: its content differs from the checksum in {MANIFEST}. Run the "
            "export again, or restore the file from a copy."
        )
    return file


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
